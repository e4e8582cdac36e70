"""`exitplane status`: what runs, as the API tells it."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

from model.errors import ExitplaneError


class ApiUnreachable(ExitplaneError):
    code = "api_unreachable"


def status(
    *,
    api: Annotated[str, typer.Option(envvar="EXITPLANE_API", help="Where the API is.")] = "http://127.0.0.1:8000",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the exits and proxies, their states and why, and which changes are tried or held back."""
    found = asyncio.run(_read(api.rstrip("/")))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = Console(highlight=False)
    exits = ("fleet", "country", "pool", "name", "locality", "state", "state_reason")
    console.print(_table("Exits", found["exits"], exits))
    proxies = [each | {"lacks": _what_it_lacks(each)} for each in found["proxies"]]
    console.print(_table("Proxies", proxies, ("fleet", "role", "name", "locality", "connected", "lacks")))
    if found["changes"]:
        console.print(_table("Changes not with everybody", found["changes"], ("fleet", "given_to", "what", "reason")))


async def _read(api: str) -> dict[str, list[dict[str, Any]]]:
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            fleets, exits, proxies = [
                await _items(session, f"{api}/api/v1/{collection}") for collection in ("fleets", "exits", "proxies")
            ]
            changes = [change for fleet in fleets for change in await _changes(session, api, fleet)]
            return {"exits": exits, "proxies": proxies, "changes": changes}
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ApiUnreachable(f"the API at {api} does not answer ({error})", mend="start it, or give --api") from error


async def _items(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    async with session.get(url) as response:
        response.raise_for_status()
        items: list[dict[str, Any]] = (await response.json())["items"]
        return items


async def _changes(session: aiohttp.ClientSession, api: str, fleet: dict[str, Any]) -> list[dict[str, Any]]:
    """What of a fleet is tried by canaries, or held back."""
    async with session.get(f"{api}/api/v1/fleets/{fleet['id']}/rollout") as response:
        if response.status == 404:  # it was removed meanwhile
            return []
        response.raise_for_status()
        groups = (await response.json())["groups"]
    return [
        {"fleet": fleet["name"], "what": ", ".join(sorted({it["name"] for it in each["resources"]}))} | each
        for group in groups
        for each in group["change_sets"]
    ]


def _what_it_lacks(proxy: dict[str, Any]) -> str:
    """The types of resources of which a proxy does not have what it should."""
    behind = [
        f"{it['type_url'].rpartition('.')[2]} ({it['status']})" for it in proxy["sync"] if it["status"] != "accepted"
    ]
    return ", ".join(behind)


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(row.get(column) or "") for column in columns))
    return table
