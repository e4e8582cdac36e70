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
    """Show the exits and proxies, their states and why."""
    exits, proxies = asyncio.run(_read(api.rstrip("/")))
    if as_json:
        print(json.dumps({"exits": exits, "proxies": proxies}, indent=2))
        return
    console = Console(highlight=False)
    console.print(_table("Exits", exits, ("fleet", "country", "pool", "name", "state", "state_reason")))
    console.print(_table("Proxies", proxies, ("fleet", "role", "name", "connected")))


async def _read(api: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return await _items(session, f"{api}/api/v1/exits"), await _items(session, f"{api}/api/v1/proxies")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ApiUnreachable(f"the API at {api} does not answer ({error})", mend="start it, or give --api") from error


async def _items(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    async with session.get(url) as response:
        response.raise_for_status()
        items: list[dict[str, Any]] = (await response.json())["items"]
        return items


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(row.get(column) or "") for column in columns))
    return table
