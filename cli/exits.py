"""`exitplane drain`, `enable`, `disable`, `rotate`, `speed-test`, `logs`, `history` and `best`: operating exits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from api.http.limits import AGENT_LOG_LINES_MAX, HISTORY_HOURS_MAX
from cli.api_command import HERE, Api, AsJson, Fleet, print_json, run
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from rich.table import Table

    from api.features.orders.schemas import OrderKind
    from client import Client
    from client.exits import Switch
    from client.json_client import Item

WAIT_S: Final = 60.0
_ASK_FOR_S: Final = 20.0
Ref = Annotated[str, typer.Argument(metavar="EXIT", help="By its name or id.")]
Wait = Annotated[float, typer.Option(min=0, max=300, help="For the agent's answer, in seconds at most.")]
Refs = Annotated[list[str], typer.Argument(metavar="EXIT…", help="Which of them, by names or ids.")]
Approve = Annotated[
    Literal["shrink"] | None,
    typer.Option(help="shrink: yes, although it leaves less than half of the healthy exits of a fleet."),
]


class OrderNotDone(ExitplaneError):
    code = "order_not_done"


def drain(
    *, exits: Refs, fleet: Fleet = None, approve: Approve = None, api: Api = HERE, as_json: AsJson = False
) -> None:
    """Offer exits to nobody any more; their open tunnels go on until their clients are done."""
    _switch("drain", exits, fleet, approve, api, as_json=as_json)


def enable(*, exits: Refs, fleet: Fleet = None, api: Api = HERE, as_json: AsJson = False) -> None:
    """Let exits that were drained or disabled serve again, once they are heard of."""
    _switch("enable", exits, fleet, None, api, as_json=as_json)


def disable(
    *, exits: Refs, fleet: Fleet = None, approve: Approve = None, api: Api = HERE, as_json: AsJson = False
) -> None:
    """Take exits out."""
    _switch("disable", exits, fleet, approve, api, as_json=as_json)


def _switch(
    word: Switch, refs: Sequence[str], fleet: str | None, approve: Literal["shrink"] | None, api: str, *, as_json: bool
) -> None:
    async def do(client: Client) -> list[Item]:
        path = f"/exits/{{exit_id}}/{word}"
        return [await client.plain.post(path, ref, fleet=fleet, approve=approve) for ref in refs]

    done = run(api, do)
    if as_json:
        print_json(done)
        return
    for each in done:
        why = f": {each['state_reason']}" if each["state_reason"] else ""
        print(f"{each['name']} is {each['state']}{why}")


def best(
    *,
    country: Annotated[str, typer.Argument(metavar="COUNTRY", help="Two letters.")],
    fleet: Fleet = None,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Show which exit of a country is the best now: healthy, with little to do, and near."""
    found = run(api, lambda client: client.plain.get("/exits/best", country=country, fleet=fleet))
    if as_json:
        print_json(found)
        return
    print(f"{found['name']} is {found['state']}, with {found['open_requests']} open requests")


def rotate(
    *,
    ref: Ref,
    fleet: Fleet = None,
    approve: Approve = None,
    wait: Wait = WAIT_S,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Have an exit take another server or address, and wait until it has."""
    done = _order("rotate", ref, fleet, approve, None, wait, api, as_json=as_json)
    if done is not None:
        print(f"{done['exit']} uses {(done['outcome'] or {}).get('server', 'another server')}")


def speed_test(*, ref: Ref, fleet: Fleet = None, wait: Wait = WAIT_S, api: Api = HERE, as_json: AsJson = False) -> None:
    """Have an exit measure how fast its tunnel is."""
    done = _order("speed-test", ref, fleet, None, None, wait, api, as_json=as_json)
    for name, value in ((done["outcome"] if done else None) or {}).items():
        print(f"{name}: {value}")


def logs(
    *,
    ref: Ref,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=AGENT_LOG_LINES_MAX, help="How many of the newest.")
    ] = 100,
    fleet: Fleet = None,
    wait: Wait = WAIT_S,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Show the newest lines of what an exit's agent and its Envoy log."""
    done = _order("logs", ref, fleet, None, lines, wait, api, as_json=as_json)
    for name in ("envoy", "lines"):
        for line in ((done["outcome"] if done else None) or {}).get(name, ()):
            print(line)


def _order(
    kind: OrderKind,
    ref: str,
    fleet: str | None,
    approve: Literal["shrink"] | None,
    lines: int | None,
    wait_s: float,
    api: str,
    *,
    as_json: bool,
) -> Item | None:
    """Ask, wait for the outcome, and give it, unless it was printed. Raises OrderNotDone."""

    async def do(client: Client) -> Item:
        asked = await client.plain.post(f"/exits/{{exit_id}}/{kind}", ref, fleet=fleet, lines=lines, approve=approve)
        deadline_s = time.monotonic() + wait_s
        path = "/exits/{exit_id}/orders/{order_id}"
        while asked["state"] == "pending" and (left_s := deadline_s - time.monotonic()) > 0:
            asked = await client.plain.get(path, asked["exit_id"], asked["id"], wait=min(left_s, _ASK_FOR_S))
        return asked

    done = run(api, do)
    if as_json:
        print_json(done)
    if done["state"] != "done":
        why = done["error"] or "its agent has not answered"
        raise OrderNotDone(
            f"{done['exit']} did not: {why}", hint="see what `exitplane history` says of it, or --wait longer"
        )
    return None if as_json else done


def history(
    *,
    ref: Annotated[str, typer.Argument(metavar="EXIT", help="By its name or id.")],
    hours: Annotated[int, typer.Option(min=1, max=HISTORY_HOURS_MAX, help="How far back.")] = 24,
    fleet: Fleet = None,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Show what an exit went through: its states with their reasons, and how that compares with the time before.

    For example:

      exitplane history us-1 --hours 168
    """
    found = run(api, lambda client: client.plain.get("/exits/{exit_id}/history", ref, hours=hours, fleet=fleet))
    if as_json:
        print_json(found)
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(found))
    console.print(f"these {hours} h: {_sentence(found['summary'])}\nbefore: {_sentence(found['before'])}")


def _table(found: Item) -> Table:
    from rich.table import Table

    table = Table("since", "for", "state", "reason", box=None)
    for stay in found["states"]:
        since, until = (datetime.fromisoformat(at) for at in (stay["since"], stay["until"] or found["until"]))
        lasted_s = (until - since).total_seconds()
        table.add_row(f"{since:%Y-%m-%d %H:%M:%S}", _plain(lasted_s), stay["state"], stay["reason"])
    return table


def _sentence(summary: Item) -> str:
    if summary["uptime"] is None:
        return "nothing is known"
    parts = [f"{summary['uptime']:.2%} up", f"{summary['failures']} failures"]
    if summary["mean_time_between_failures_s"] is not None:
        parts.append(f"{_plain(summary['mean_time_between_failures_s'])} between them")
    if summary["mean_time_to_recover_s"] is not None:
        parts.append(f"{_plain(summary['mean_time_to_recover_s'])} to recover")
    return ", ".join(parts)


def _plain(seconds: float) -> str:
    """A duration as people say it: 90 s, 12 min, 5.5 h, 3.2 d."""
    for size, unit in ((86_400, "d"), (3_600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
