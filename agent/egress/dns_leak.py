"""DNS leaks: who resolves an exit's names, compared with where the exit comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from agent.config.settings import ExitSettings
from agent.egress.finding import LeakFinding, joined
from agent.egress.geolocation import Geolocator
from agent.egress.types import SeenAddress, UnusableAnswer
from agent.egress.whoami_dns import ResolverSeen, reveal
from model.endpoint import Endpoint

TRIES: Final = 3
"""Names that each resolver is asked for: behind one address there may be several that ask in turn."""

Route = Callable[..., str | None]
"""As `agent.net.route_query.interface_towards`."""
Asked = Sequence[tuple[str, ResolverSeen | str]]
"""For each question the resolver's address, with who asked the zone or why that is not known."""


async def ask_zone(zone: str, servers: Sequence[Endpoint], interface: str | None = None) -> Asked:
    """Ask every resolver for fresh names in the zone, all at once, by `interface` if one is given."""
    asked = [server for server in servers for _ in range(TRIES)]
    answers = await asyncio.gather(*(_ask(zone, server, interface) for server in asked))
    return list(dict.fromkeys(zip((server.host for server in asked), answers, strict=True)))


async def _ask(zone: str, server: Endpoint, interface: str | None) -> ResolverSeen | str:
    try:
        return await reveal(zone, server, interface)
    except UnusableAnswer as useless:
        return str(useless)


async def located(asked: Asked, locator: Geolocator) -> Asked:
    """The same, with the place of each asker that the zone did not tell of."""
    placed: list[tuple[str, ResolverSeen | str]] = []
    for host, asker in asked:
        found = asker
        if isinstance(asker, ResolverSeen) and asker.place.country is None:
            place = await locator.find(asker.address)
            found = asker if place is None else replace(asker, place=place)
        placed.append((host, found))
    return placed


def judge(asked: Asked, exit_: ExitSettings, seen: SeenAddress | None, route: Route) -> LeakFinding:
    """What the askers say of an exit that comes out as `seen`; None while that is not known.

    A resolver is as it should be if it is in the exit's country, is the exit's own address, or is in `exit_.dns_allow`. One that
    nobody can place is not: what cannot be compared is not verified.
    """
    leaks, troubles, told, askers = [], [], [], []
    for host, asker in asked:
        if isinstance(asker, str):
            told.append(f"resolver {host}: {asker}")
            continue
        askers.append(f"{asker.address} in {asker.place.country or 'nobody knows where'}")
        leak, trouble = _judge_one(host, asker, exit_, seen, route)
        leaks.append(leak)
        troubles.append(trouble)
    if not askers:
        return LeakFinding(trouble=joined(told))
    return LeakFinding(joined(leaks), joined(troubles), joined(told), joined(askers))


def _judge_one(
    host: str, asker: ResolverSeen, exit_: ExitSettings, seen: SeenAddress | None, route: Route
) -> tuple[str, str]:
    """Its leak and its trouble."""
    if asker.address in exit_.host_addresses:
        return f"its names are resolved from the host's own address {asker.address}, outside the tunnel", ""
    if not _allowed(host, exit_) and (way := _way_beside(host, exit_, route)):
        return f"its names are asked of {host} by {way}, outside its tunnel {exit_.tunnel_interface}", ""
    if seen is None or asker.address == seen.address or _allowed(asker.address, exit_):
        return "", ""
    if asker.place.country is None:
        return "", f"its names are resolved by {asker.address}, and nobody says where that is"
    if asker.place.country != seen.place.country:
        whose = f" ({asker.place.network})" if asker.place.network else ""
        where = f"{asker.address}{whose} in {asker.place.country}"
        return f"its names are resolved by {where}, outside the tunnel, which comes out in {seen.place.country}", ""
    return "", ""


def _allowed(address: str, exit_: ExitSettings) -> bool:
    return any(ip_address(address) in network for network in exit_.dns_allow)


def _way_beside(host: str, exit_: ExitSettings, route: Route) -> str | None:
    """The interface other than the tunnel's by which a resolver is asked; one on loopback asks for itself, unseen here."""
    if exit_.tunnel_interface is None or ip_address(host).is_loopback:
        return None
    way = route(host)
    return None if way in {exit_.tunnel_interface, "lo"} else way
