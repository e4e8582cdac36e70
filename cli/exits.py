"""`exitplane drain`, `enable`, `disable` and `history`: operating exits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from api.exits.schemas import HOURS_MAX, ExitOut, HistoryOut, SummaryOut
from cli.client import Client
from cli.client.client import Switch
from cli.client.command import HERE, Api, AsJson, Fleet, print_json, run

Refs = Annotated[list[str], typer.Argument(metavar="EXIT…", help="Which of them, by names or ids.")]
Approve = Annotated[
    Literal["shrink"] | None,
    typer.Option(help="shrink: yes, although it leaves less than half of the healthy exits of a fleet."),
]


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
    async def do(client: Client) -> list[ExitOut]:
        return [await client.exits.switch(word, ref, fleet=fleet, approve=approve) for ref in refs]

    done = run(api, do)
    if as_json:
        print_json([each.model_dump(mode="json") for each in done])
        return
    for each in done:
        print(
            f"{each.name} is {each.state}: {each.state_reason}" if each.state_reason else f"{each.name} is {each.state}"
        )


def history(
    *,
    ref: Annotated[str, typer.Argument(metavar="EXIT", help="By its name or id.")],
    hours: Annotated[int, typer.Option(min=1, max=HOURS_MAX, help="How far back.")] = 24,
    fleet: Fleet = None,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Show what an exit went through: its states with their reasons, and how that compares with the time before.

    For example:

      exitplane history us-1 --hours 168
    """
    found = run(api, lambda client: client.exits.history(ref, hours=hours, fleet=fleet))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    console = Console(highlight=False)
    console.print(_table(found))
    console.print(f"these {hours} h: {_sentence(found.summary)}\nbefore: {_sentence(found.before)}")


def _table(found: HistoryOut) -> Table:
    table = Table("since", "for", "state", "reason", box=None)
    for stay in found.states:
        lasted = (stay.until or found.until) - stay.since
        table.add_row(
            f"{stay.since.astimezone(UTC):%Y-%m-%d %H:%M:%S}", _plain(lasted.total_seconds()), stay.state, stay.reason
        )
    return table


def _sentence(summary: SummaryOut) -> str:
    if summary.uptime is None:
        return "nothing is known"
    parts = [f"{summary.uptime:.2%} up", f"{summary.failures} failures"]
    if summary.mean_time_between_failures_s is not None:
        parts.append(f"{_plain(summary.mean_time_between_failures_s)} between them")
    if summary.mean_time_to_recover_s is not None:
        parts.append(f"{_plain(summary.mean_time_to_recover_s)} to recover")
    return ", ".join(parts)


def _plain(seconds: float) -> str:
    """A duration as people say it: 90 s, 12 min, 5.5 h, 3.2 d."""
    for size, unit in ((86_400, "d"), (3_600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
