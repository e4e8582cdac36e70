"""The command `exitplane explain`, which shows the route of a request and the reasons for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.api_command import DEFAULT_API, Api, AsJson, Fleet, print_json, run
from cli.terminal import printable

if TYPE_CHECKING:
    from client.json_client import Item


def explain(
    target: Annotated[str, typer.Argument(help="The target of the request: a URL, or a host with or without a port.")],
    *,
    user: Annotated[
        str, typer.Option(help="The user name, with country, city, pool or session in it: alice-country-de.")
    ] = "",
    country: Annotated[str | None, typer.Option(help="The value of the header exit-country.")] = None,
    city: Annotated[str | None, typer.Option(help="The value of the header exit-city.")] = None,
    pool: Annotated[str | None, typer.Option(help="The value of the header exit-pool.")] = None,
    session: Annotated[str | None, typer.Option(help="The value of the header exit-session.")] = None,
    listener: Annotated[
        str | None, typer.Option(help="The listener that receives the request; by default the first one.")
    ] = None,
    server_name: Annotated[
        str | None, typer.Option(help="The server name of the client's TLS connection to the gateway (SNI).")
    ] = None,
    locality: Annotated[str | None, typer.Option(help="The locality of the gateway.")] = None,
    at: Annotated[
        str | None, typer.Option(help="The time of the request, such as 2026-01-31T09:30:00Z; by default now.")
    ] = None,
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Show which listener, route, pool and exits would serve a request, in order, and why others would not.

    For example: exitplane explain https://example.com/ --user alice-country-de
    """
    query = {
        "target": target,
        "user": user or None,
        "country": country,
        "city": city,
        "pool": pool,
        "session": session,
        "listener": listener,
        "server_name": server_name,
        "locality": locality,
        "at": at,
        "fleet": fleet,
    }
    found = run(api, lambda client: client.json.get("/explain", **query))
    if as_json:
        print_json(found)
    else:
        print(printable("\n".join(_describe(found))))


def _describe(found: Item) -> Iterator[str]:
    intent, target = found["intent"], found["target"]
    asked = ", ".join(f"{name} {intent[name]}" for name in ("country", "city", "pool", "session") if intent[name])
    group = f" of the group {intent['group']}" if intent["group"] else ""
    who = (intent["user"] or "an unnamed user") + group
    where = f"at the listener {found['listener']} of {found['fleet']}"
    yield f"{who}, {where}, asks for {asked or 'no particular exit'} (by {intent['source']})"
    yield f"to reach {target['host']} port {target['port']}"
    for route in found["routes"]:
        why = "decides" if route["failed"] is None else f"skipped, because the {route['failed']} differs"
        yield f"  route {route['name']} at {route['position']}: {why}"
    for path in found["paths"]:
        if len(found["paths"]) > 1:
            yield f"  with weight {path['weight']}:"
        yield from _describe_pools(path["pools"])
    yield found["summary"]


def _describe_pools(pools: Iterable[Item]) -> Iterator[str]:
    for pool in pools:
        yield f"  pool {pool['name']}" + ("" if pool["exits"] else ": no exits")
        for exit_ in pool["exits"]:
            how = f"{'standby' if exit_['standby'] else 'serves'} (distance {exit_['distance']})"
            yield f"    exit {exit_['name']}: {exit_['reason'] or how}"
