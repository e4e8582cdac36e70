"""The command `exitplane messages`, for channels, rules, and the deliveries of messages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.api_command import DEFAULT_API, Api, AsJson, print_json, run
from cli.secret_files import read_secret
from cli.terminal import add_row, console, printable

if TYPE_CHECKING:
    from client import Client
    from client.json_client import Item

messages = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Add channels and rules of messages, send a test message, and see what was delivered.",
)
_COLUMNS: Final = ("id", "created_at", "rule", "channel", "title", "state", "attempts", "error")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name.")]


@messages.command("list")
def list_(
    *,
    state: Annotated[str | None, typer.Option(help="pending, sending, sent or failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show this many at most, newest first.")] = 20,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Show messages with their deliveries, newest first."""
    found, _ = run(api, lambda client: client.json.page("messages", limit=limit, state=state))
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table(*_COLUMNS)
    for each in found:
        add_row(table, (each[column] for column in _COLUMNS))
    console().print(table)


@messages.command("add-channel")
def add_channel(
    *,
    name: Name,
    url_file: Annotated[Path, typer.Option(help="A file with the URL, readable by you alone.")],
    key_file: Annotated[
        Path | None, typer.Option(help="For a webhook: a file with the key that signs, readable by you alone.")
    ] = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Add a channel, or give an existing one another URL.

    For example:

      exitplane messages add-channel ops --url-file telegram.url
    """
    secrets = {"url": read_secret(url_file).strip()}
    if key_file is not None:
        secrets["signing_key"] = read_secret(key_file).strip()

    async def put(client: Client) -> Item:
        if (await client.json.page("channels", name=name))[0]:
            return await client.json.change("channels", name, secrets)
        return await client.json.create("channels", {"name": name, **secrets})

    stored = run(api, put)
    if as_json:
        print_json(stored)
    else:
        print(f"channel {name}; try it with: exitplane messages test {name}")


@messages.command("add-rule")
def add_rule(
    *,
    name: Name,
    events: Annotated[list[str], typer.Option("--event", help="An event, as in docs/messages.md. Repeatable.")],
    channels: Annotated[list[str], typer.Option("--channel", help="A channel, by name or id. Repeatable.")],
    fleet: Annotated[str | None, typer.Option(help="Only this fleet; * stands for anything.")] = None,
    pool: Annotated[str | None, typer.Option(help="Only exits of this pool; * stands for anything.")] = None,
    exit_: Annotated[str | None, typer.Option("--exit", help="Only this exit; * stands for anything.")] = None,
    threshold: Annotated[int, typer.Option(min=1, help="Tell after so many beginnings within --within.")] = 1,
    within: Annotated[int, typer.Option(help="Seconds in which beginnings are counted.")] = 3_600,
    for_s: Annotated[int, typer.Option("--for", help="Tell when it has lasted so many seconds.")] = 0,
    cooldown: Annotated[int, typer.Option(help="Seconds between two messages about one subject, at least 60.")] = 300,
    recovery: Annotated[bool, typer.Option(help="Tell when all is over.")] = True,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Add a rule.

    For example:

      exitplane messages add-rule exits --event exit_lost --event exit_leaking --channel ops --for 60
    """
    rule = {
        "name": name,
        "events": events,
        "channels": channels,
        "fleet": fleet,
        "pool": pool,
        "exit": exit_,
        "threshold": threshold,
        "within_s": within,
        "for_s": for_s,
        "cooldown_s": cooldown,
        "recovery": recovery,
    }
    stored = run(api, lambda client: client.json.create("message-rules", rule))
    if as_json:
        print_json(stored)
    else:
        print(f"rule {name}")


@messages.command("test")
def send_test(*, channel: Annotated[str, typer.Argument(metavar="CHANNEL")], api: Api = DEFAULT_API) -> None:
    """Send a test message to a channel."""
    sent = run(api, lambda client: client.json.post("/channels/{channel}/test", channel))
    print(printable(f"message {sent['id']} to {sent['channel']}; see: exitplane get messages {sent['id']}"))
