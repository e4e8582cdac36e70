"""The command `exitplane status`, which shows exits, proxies and unfinished rollouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.api_command import DEFAULT_API, Api, AsJson, print_json, run
from cli.terminal import add_row, console
from client.errors import ApiRefused

if TYPE_CHECKING:
    from rich.table import Table

    from client import Client
    from client.json_client import Item


def status(*, api: Api = DEFAULT_API, as_json: AsJson = False) -> None:
    """Show exits and proxies with their states, and the changes that are not rolled out to all proxies."""
    found = run(api, _read)
    if as_json:
        print_json(found)
        return
    shown = console()
    exits = ("fleet", "country", "pool", "name", "locality", "state", "state_reason")
    shown.print(_table("Exits", found["exits"], exits))
    shown.print(
        _table(
            "Proxies", found["proxies"], ("fleet", "role", "name", "locality", "connected", "out_of_sync", "rejects")
        )
    )
    if found["changes"]:
        columns = ("fleet", "id", "released_to", "resource_names", "reason")
        shown.print(_table("Changes not rolled out to all proxies", found["changes"], columns))


async def _read(client: Client) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    import asyncio

    from client import collect

    fleets, exits, proxies = await asyncio.gather(
        *(collect(client.json.list(name)) for name in ("fleets", "exits", "proxies"))
    )
    changes = [change for fleet in fleets for change in await _changes(client, fleet)]
    return {
        "exits": exits,
        "proxies": [
            each | {"out_of_sync": _list_outdated_types(each), "rejects": _list_outvoted(each)} for each in proxies
        ],
        "changes": changes,
    }


async def _changes(client: Client, fleet: Item) -> list[dict[str, Any]]:
    """Read the change-sets of a fleet that only canaries have, or that are held back."""
    try:
        rollout = await client.json.get("/fleets/{fleet}/rollout", fleet["id"])
    except ApiRefused as refusal:
        if refusal.status == 404:  # the fleet was deleted meanwhile
            return []
        raise
    return [
        {"fleet": fleet["name"], "resource_names": ", ".join(sorted({it["name"] for it in each["resources"]}))} | each
        for group in rollout["groups"]
        for each in group["change_sets"]
    ]


def _list_outdated_types(proxy: Item) -> str:
    """List the types of resources of which a proxy has not accepted the current version."""
    behind = [
        f"{it['type_url'].rpartition('.')[2]} ({it['status']})" for it in proxy["sync"] if it["status"] != "accepted"
    ]
    return ", ".join(behind)


def _list_outvoted(proxy: Item) -> str:
    """List the resources that a proxy rejects although others of its group accepted them."""
    names = sorted({each["resource"] for each in proxy["rejections"] if each["accepted_by_others"]})
    return f"{', '.join(names)} (others accept it)" if names else ""


def _table(title: str, rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        add_row(table, (row.get(column) or "" for column in columns))
    return table
