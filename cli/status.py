"""`exitplane status`: what runs, as the API tells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.api_command import HERE, Api, AsJson, print_json, run
from client.errors import ApiRefused

if TYPE_CHECKING:
    from rich.table import Table

    from client import Client
    from client.json_client import Item


def status(*, api: Api = HERE, as_json: AsJson = False) -> None:
    """Show the exits and proxies, their states and why, and which changes are tried or held back."""
    found = run(api, _read)
    if as_json:
        print_json(found)
        return
    from rich.console import Console

    console = Console(highlight=False)
    exits = ("fleet", "country", "pool", "name", "locality", "state", "state_reason")
    console.print(_table("Exits", found["exits"], exits))
    console.print(_table("Proxies", found["proxies"], ("fleet", "role", "name", "locality", "connected", "lacks")))
    if found["changes"]:
        console.print(
            _table("Changes not with everybody", found["changes"], ("fleet", "released_to", "what", "reason"))
        )


async def _read(client: Client) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    import asyncio

    from client import collect

    fleets, exits, proxies = await asyncio.gather(
        *(collect(client.plain.list(name)) for name in ("fleets", "exits", "proxies"))
    )
    changes = [change for fleet in fleets for change in await _changes(client, fleet)]
    return {
        "exits": exits,
        "proxies": [each | {"lacks": _what_it_lacks(each)} for each in proxies],
        "changes": changes,
    }


async def _changes(client: Client, fleet: Item) -> list[dict[str, Any]]:
    """What of a fleet is tried by canaries, or held back."""
    try:
        rollout = await client.plain.get("/fleets/{fleet}/rollout", fleet["id"])
    except ApiRefused as refusal:
        if refusal.status == 404:  # it was removed meanwhile
            return []
        raise
    return [
        {"fleet": fleet["name"], "what": ", ".join(sorted({it["name"] for it in each["resources"]}))} | each
        for group in rollout["groups"]
        for each in group["change_sets"]
    ]


def _what_it_lacks(proxy: Item) -> str:
    """The types of resources of which a proxy does not have what it should."""
    behind = [
        f"{it['type_url'].rpartition('.')[2]} ({it['status']})" for it in proxy["sync"] if it["status"] != "accepted"
    ]
    return ", ".join(behind)


def _table(title: str, rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(row.get(column) or "") for column in columns))
    return table
