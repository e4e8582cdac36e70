"""The commands that operate exits: `exitplane drain`, `enable`, `disable`, `rotate`, `speed-test`, `logs`, `history`, `best`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from api.http.limits import AGENT_LOG_LINES_MAX, HISTORY_HOURS_MAX
from cli.api_command import DEFAULT_API, Api, AsJson, Fleet, print_json, run
from cli.terminal import add_row, console, printable
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from rich.table import Table

    from api.features.orders.schemas import OrderKind
    from client import Client
    from client.exits import Switch
    from client.json_client import Item

WAIT_S: Final = 60.0
_POLL_S: Final = 20.0
"""The time that the API holds one request for an order's outcome."""
Ref = Annotated[str, typer.Argument(metavar="EXIT", help="The exit, by name or id.")]
Wait = Annotated[float, typer.Option(min=0, max=300, help="Wait this many seconds, at most, for the agent's answer.")]
Refs = Annotated[list[str], typer.Argument(metavar="EXIT…", help="The exits, by names or ids.")]
Approve = Annotated[
    Literal["shrink"] | None,
    typer.Option(help="shrink: allow a change that leaves less than half of a fleet's healthy exits."),
]


class OrderNotDone(ExitplaneError):
    code = "order_not_done"


def drain(
    *, exits: Refs, fleet: Fleet = None, approve: Approve = None, api: Api = DEFAULT_API, as_json: AsJson = False
) -> None:
    """Stop sending new requests to exits; open tunnels continue until their clients close them."""
    _send_switch("drain", exits, fleet, approve, api, as_json=as_json)


def enable(*, exits: Refs, fleet: Fleet = None, api: Api = DEFAULT_API, as_json: AsJson = False) -> None:
    """Enable exits that were drained or disabled; they serve again after their next heartbeat."""
    _send_switch("enable", exits, fleet, None, api, as_json=as_json)


def disable(
    *, exits: Refs, fleet: Fleet = None, approve: Approve = None, api: Api = DEFAULT_API, as_json: AsJson = False
) -> None:
    """Take exits out of service."""
    _send_switch("disable", exits, fleet, approve, api, as_json=as_json)


def _send_switch(
    action: Switch,
    refs: Sequence[str],
    fleet: str | None,
    approve: Literal["shrink"] | None,
    api: str,
    *,
    as_json: bool,
) -> None:
    async def do(client: Client) -> list[Item]:
        path = f"/exits/{{exit_id}}/{action}"
        return [await client.json.post(path, ref, fleet=fleet, approve=approve) for ref in refs]

    changed = run(api, do)
    if as_json:
        print_json(changed)
        return
    for each in changed:
        reason = f": {each['state_reason']}" if each["state_reason"] else ""
        print(printable(f"{each['name']} is {each['state']}{reason}"))


def best(
    *,
    country: Annotated[str, typer.Argument(metavar="COUNTRY", help="The country, as two letters (ISO 3166).")],
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Show the best exit of a country at the moment: healthy, near, and with few open requests."""
    found = run(api, lambda client: client.json.get("/exits/best", country=country, fleet=fleet))
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
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Make an exit take another server or address, and wait until it has."""
    done = _send_order("rotate", ref, fleet, approve, None, wait, api, as_json=as_json)
    if done is not None:
        print(printable(f"{done['exit']} uses {(done['outcome'] or {}).get('server', 'another server')}"))


def speed_test(
    *, ref: Ref, fleet: Fleet = None, wait: Wait = WAIT_S, api: Api = DEFAULT_API, as_json: AsJson = False
) -> None:
    """Measure the speed of an exit's tunnel."""
    done = _send_order("speed-test", ref, fleet, None, None, wait, api, as_json=as_json)
    for name, value in ((done["outcome"] if done else None) or {}).items():
        print(printable(f"{name}: {value}"))


def logs(
    *,
    ref: Ref,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=AGENT_LOG_LINES_MAX, help="The number of lines, at most.")
    ] = 100,
    fleet: Fleet = None,
    wait: Wait = WAIT_S,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Show the newest log lines of an exit's agent and its Envoy."""
    done = _send_order("logs", ref, fleet, None, lines, wait, api, as_json=as_json)
    for name in ("envoy", "lines"):
        for line in ((done["outcome"] if done else None) or {}).get(name, ()):
            print(printable(line))


def _send_order(
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
    """Send an order to an exit's agent and wait for its outcome; None if that was printed. Raises OrderNotDone."""

    async def do(client: Client) -> Item:
        order = await client.json.post(f"/exits/{{exit_id}}/{kind}", ref, fleet=fleet, lines=lines, approve=approve)
        deadline_s = time.monotonic() + wait_s
        path = "/exits/{exit_id}/orders/{order_id}"
        while order["state"] == "pending" and (remaining_s := deadline_s - time.monotonic()) > 0:
            order = await client.json.get(path, order["exit_id"], order["id"], wait=min(remaining_s, _POLL_S))
        return order

    done = run(api, do)
    if as_json:
        print_json(done)
    if done["state"] != "done":
        reason = done["error"] or "its agent has not answered"
        raise OrderNotDone(
            f"{done['exit']} did not execute the order: {reason}",
            hint="look at `exitplane history`, or use a longer --wait",
        )
    return None if as_json else done


def history(
    *,
    ref: Annotated[str, typer.Argument(metavar="EXIT", help="The exit, by name or id.")],
    hours: Annotated[int, typer.Option(min=1, max=HISTORY_HOURS_MAX, help="The number of hours to look back.")] = 24,
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Show the states that an exit went through, with reasons, and its uptime compared with the time before.

    For example:

      exitplane history us-1 --hours 168
    """
    found = run(api, lambda client: client.json.get("/exits/{exit_id}/history", ref, hours=hours, fleet=fleet))
    if as_json:
        print_json(found)
        return
    shown = console()
    shown.print(_table(found))
    shown.print(f"last {hours} h: {_format_summary(found['summary'])}\nbefore: {_format_summary(found['before'])}")


def _table(found: Item) -> Table:
    from rich.table import Table

    table = Table("since", "for", "state", "reason", box=None)
    for period in found["states"]:
        since, until = (datetime.fromisoformat(at) for at in (period["since"], period["until"] or found["until"]))
        lasted_s = (until - since).total_seconds()
        add_row(table, (f"{since:%Y-%m-%d %H:%M:%S}", _format_duration(lasted_s), period["state"], period["reason"]))
    return table


def _format_summary(summary: Item) -> str:
    if summary["uptime"] is None:
        return "no data"
    parts = [f"{summary['uptime']:.2%} up", f"{summary['failures']} failures"]
    if summary["mean_time_between_failures_s"] is not None:
        parts.append(f"{_format_duration(summary['mean_time_between_failures_s'])} between them")
    if summary["mean_time_to_recover_s"] is not None:
        parts.append(f"{_format_duration(summary['mean_time_to_recover_s'])} to recover")
    return ", ".join(parts)


def _format_duration(seconds: float) -> str:
    """Format a duration for people: 90 s, 12 min, 5.5 h, 3.2 d."""
    for size, unit in ((86_400, "d"), (3_600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
