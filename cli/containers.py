"""The command `exitplane containers`, for exits that run in containers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from api.http.limits import CONTAINER_LOG_LINES_MAX
from cli.api_command import DEFAULT_API, Api, AsJson, Fleet, print_json, run
from cli.terminal import add_row, console, printable
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from rich.table import Table

    from api.features.containers.schemas import Verb
    from client import Client
    from client.json_client import Item

containers = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, start, stop and restart the containers of exits, and show their logs.",
)
Country = Annotated[str | None, typer.Option(help="The containers of all pools of this country.")]
Pool = Annotated[str | None, typer.Option(help="The containers of this pool, by name or id.")]
Refs = Annotated[
    list[str] | None, typer.Argument(metavar="[EXIT]…", help="The containers of these exits, by names or ids.")
]
Approve = Annotated[
    Literal["shrink"] | None,
    typer.Option(help="shrink: allow a change that leaves less than half of a fleet's healthy exits."),
]


class NothingNamed(ExitplaneError):
    code = "nothing_named"


@containers.command("list")
def list_(
    *, pool: Pool = None, country: Country = None, fleet: Fleet = None, api: Api = DEFAULT_API, as_json: AsJson = False
) -> None:
    """Show the containers of pools, by default of all pools, and their errors."""
    from client.json_client import Item

    async def read(client: Client) -> list[Item]:
        pools = await _pools(client, pool, country, fleet)
        path = "/pools/{pool}/containers"
        found = [(each, await client.json.get(path, each["id"])) for each in pools]
        return [Item({"pool": each["name"], "fleet": each["fleet"]} | of) for each, of in found]

    found = run(api, read)
    if as_json:
        print_json(found)
        return
    shown = console()
    shown.print(_table(found))
    for each in found:
        if (state := each["state"]) is not None:
            counts = f"{state['running']} running, {state['wanted']} wanted"
            error = f": {state['error']}" if state["error"] else ""
            shown.print(printable(f"{each['fleet']}/{each['pool']}: {counts}{error}"))


@containers.command("start")
def start(
    *,
    exits: Refs = None,
    pool: Pool = None,
    country: Country = None,
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Start containers that were stopped."""
    _send_command("start", exits or (), (pool, country, fleet), None, api, as_json=as_json)


@containers.command("stop")
def stop(
    *,
    exits: Refs = None,
    pool: Pool = None,
    country: Country = None,
    fleet: Fleet = None,
    approve: Approve = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Stop containers. They are not replaced until they are started again."""
    _send_command("stop", exits or (), (pool, country, fleet), approve, api, as_json=as_json)


@containers.command("restart")
def restart(
    *,
    exits: Refs = None,
    pool: Pool = None,
    country: Country = None,
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Restart containers; those of a pool one after another, each when the one before is healthy again.

    For example:

      exitplane containers restart --country de
    """
    _send_command("restart", exits or (), (pool, country, fleet), None, api, as_json=as_json)


@containers.command("logs")
def logs(
    *,
    ref: Annotated[str, typer.Argument(metavar="EXIT", help="The exit, by name or id.")],
    lines: Annotated[int, typer.Option(min=1, max=CONTAINER_LOG_LINES_MAX, help="The number of lines, at most.")] = 100,
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Show the last lines of a container's log."""
    found = run(api, lambda client: client.json.get("/exits/{exit_id}/container/logs", ref, lines=lines, fleet=fleet))
    if as_json:
        print_json(found)
    else:
        print(printable(found["text"]).removesuffix("\n"))


def _send_command(
    verb: Verb,
    exits: Sequence[str],
    where: tuple[str | None, str | None, str | None],
    approve: Literal["shrink"] | None,
    api: str,
    *,
    as_json: bool,
) -> None:
    pool, country, fleet = where
    if (not exits) == (pool is None and country is None):
        raise NothingNamed(
            "the command needs either exits, or a pool or country", hint="name exits, or add --pool or --country"
        )

    async def do(client: Client) -> list[Item]:
        if exits:
            path = f"/exits/{{exit_id}}/{verb}"
            replies = [await client.json.post(path, ref, fleet=fleet, approve=approve) for ref in exits]
        else:
            pools, path = await _pools(client, pool, country, fleet), f"/pools/{{pool}}/containers/{verb}"
            replies = [await client.json.post(path, each["id"], approve=approve) for each in pools]
        return [command for reply in replies for command in reply["commands"]]

    done = run(api, do)
    if as_json:
        print_json(done)
        return
    for each in done:
        print(f"{each['container']}: {each['verb']} requested")


async def _pools(client: Client, pool: str | None, country: str | None, fleet: str | None) -> list[Item]:
    """Read the named pool, or the pools of a country that have containers."""
    from client import collect

    if pool is not None:
        return [await client.json.read("pools", pool, fleet=fleet)]
    pools = await collect(client.json.list("pools", country=country, fleet=fleet))
    return [each for each in pools if each["containers_state"] is not None]


def _table(found: Sequence[Item]) -> Table:
    from rich.table import Table

    table = Table("fleet", "container", "state", "since", "exit", "open requests", "note", box=None)
    for pool in found:
        for each in pool["containers"]:
            note = (
                "stopped" if each["stopped"] else "draining, then removed" if each["leaving_since"] else each["status"]
            )
            started_at = f"{datetime.fromisoformat(each['started_at']):%Y-%m-%d %H:%M:%S}"
            cells = (
                pool["fleet"],
                each["name"],
                each["state"],
                started_at,
                each["exit_state"],
                each["open_requests"],
                note,
            )
            add_row(table, cells)
    return table
