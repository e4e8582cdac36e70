"""`exitplane explain`: what a gateway would make of a request, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.api_command import HERE, Api, AsJson, Fleet, print_json, run

if TYPE_CHECKING:
    from rich.console import Console

    from client.json_client import Item


def explain(
    target: Annotated[str, typer.Argument(help="What is asked for: a URL, or a host with or without a port.")],
    *,
    user: Annotated[str, typer.Option(help="The user name, with the wishes in it: alice-country-de.")] = "",
    country: Annotated[str | None, typer.Option(help="As in the header exit-country.")] = None,
    city: Annotated[str | None, typer.Option(help="As in the header exit-city.")] = None,
    pool: Annotated[str | None, typer.Option(help="As in the header exit-pool.")] = None,
    session: Annotated[str | None, typer.Option(help="As in the header exit-session.")] = None,
    listener: Annotated[str | None, typer.Option(help="Where it comes in; by default the first one.")] = None,
    server_name: Annotated[str | None, typer.Option(help="Which name it dialled with TLS.")] = None,
    locality: Annotated[str | None, typer.Option(help="Where the gateway stands.")] = None,
    at: Annotated[str | None, typer.Option(help="When, as 2026-01-31T09:30:00Z; by default now.")] = None,
    fleet: Fleet = None,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Tell which listener, route, pool and exits would serve a request, in which order, and why others would not.

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
    found = run(api, lambda client: client.plain.get("/explain", **query))
    if as_json:
        print_json(found)
    else:
        from rich.console import Console

        _print(found, Console(highlight=False, markup=False, soft_wrap=True))


def _print(found: Item, console: Console) -> None:
    wish, target = found["intent"], found["target"]
    wishes = ", ".join(f"{name} {wish[name]}" for name in ("country", "city", "pool", "session") if wish[name])
    group = f" of the group {wish['group']}" if wish["group"] else ""
    who = (wish["user"] or "nobody in particular") + group
    where = f"at the listener {found['listener']} of {found['fleet']}"
    console.print(f"{who}, {where}, wishes for {wishes or 'nothing'} (by {wish['source']})")
    console.print(f"to reach {target['host']} port {target['port']}")
    for route in found["routes"]:
        why = "decides" if route["failed"] is None else f"passed over: the {route['failed']} differs"
        console.print(f"  route {route['name']} at {route['position']}: {why}")
    for way in found["paths"]:
        _print_way(way, console, alone=len(found["paths"]) == 1)
    console.print(found["summary"])


def _print_way(way: Item, console: Console, *, alone: bool) -> None:
    if not alone:
        console.print(f"  with weight {way['weight']}:")
    for pool in way["pools"]:
        console.print(f"  pool {pool['name']}" + ("" if pool["exits"] else ": it has no exits"))
        for exit_ in pool["exits"]:
            how = f"{'on standby' if exit_['standby'] else 'serves'} (distance {exit_['distance']})"
            console.print(f"    exit {exit_['name']}: {exit_['reason'] or how}")
