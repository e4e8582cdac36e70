"""The check for DNS leaks: compares the resolvers of an exit's names with the exit's egress address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from agent.config.settings import ExitSettings
from agent.egress.geolocation import Geolocator
from agent.egress.leak_check import LeakFinding, join_messages
from agent.egress.types import SeenAddress, UnusableAnswer
from agent.egress.whoami_dns import ResolverSeen, identify_resolver
from model.endpoint import Endpoint

NAMES_PER_RESOLVER: Final = 3
"""Several, because one address may stand for several resolvers that take turns."""

RouteLookup = Callable[..., str | None]
"""The signature of `agent.net.route_query.interface_towards`."""
ResolverAnswers = Sequence[tuple[str, ResolverSeen | str]]
"""Pairs of a resolver's address and who queried the zone for it, or the reason why that is unknown."""


async def query_zone(zone: str, servers: Sequence[Endpoint], interface: str | None = None) -> ResolverAnswers:
    """Query every resolver for fresh names in the zone, all at once, bound to `interface` if one is given."""
    queried = [server for server in servers for _ in range(NAMES_PER_RESOLVER)]
    answers = await asyncio.gather(*(_query(zone, server, interface) for server in queried))
    return list(dict.fromkeys(zip((server.host for server in queried), answers, strict=True)))


async def _query(zone: str, server: Endpoint, interface: str | None) -> ResolverSeen | str:
    try:
        return await identify_resolver(zone, server, interface)
    except UnusableAnswer as unusable:
        return str(unusable)


async def locate_resolvers(answers: ResolverAnswers, locator: Geolocator) -> ResolverAnswers:
    """Add locations to the resolvers whose country the zone did not state."""
    located: list[tuple[str, ResolverSeen | str]] = []
    for host, answer in answers:
        found = answer
        if isinstance(answer, ResolverSeen) and answer.location.country is None:
            location = await locator.find(answer.address)
            found = answer if location is None else replace(answer, location=location)
        located.append((host, found))
    return located


def evaluate_resolvers(
    answers: ResolverAnswers, exit_: ExitSettings, egress: SeenAddress | None, route: RouteLookup
) -> LeakFinding:
    """Compare the resolvers with the exit's egress address, which is None while unknown.

    A resolver is accepted if it is in the exit's country, is the exit's own address, or is in `exit_.dns_allow`. One without a known
    country is error, so the exit is not verified.
    """
    leaks, errors, notes, observed = [], [], [], []
    for host, answer in answers:
        if isinstance(answer, str):
            notes.append(f"resolver {host}: {answer}")
            continue
        observed.append(f"{answer.address} in {answer.location.country or 'an unknown country'}")
        leak, error = _evaluate_resolver(host, answer, exit_, egress, route)
        leaks.append(leak)
        errors.append(error)
    if not observed:
        return LeakFinding(error=join_messages(notes))
    return LeakFinding(join_messages(leaks), join_messages(errors), join_messages(notes), join_messages(observed))


def _evaluate_resolver(
    host: str, resolver: ResolverSeen, exit_: ExitSettings, egress: SeenAddress | None, route: RouteLookup
) -> tuple[str, str]:
    """Return the leak and the error of one resolver, each empty if there is none."""
    if resolver.address in exit_.host_addresses:
        return f"its names are resolved from the host's own address {resolver.address}, outside the tunnel", ""
    if not _is_allowed(host, exit_) and (interface := _find_bypass(host, exit_, route)):
        return f"its DNS queries to {host} leave by {interface}, outside its tunnel {exit_.tunnel_interface}", ""
    if egress is None or resolver.address == egress.address or _is_allowed(resolver.address, exit_):
        return "", ""
    if resolver.location.country is None:
        return "", f"its names are resolved by {resolver.address}, whose country is unknown"
    if resolver.location.country != egress.location.country:
        owner = f" ({resolver.location.network})" if resolver.location.network else ""
        where = f"{resolver.address}{owner} in {resolver.location.country}"
        return (
            f"its names are resolved by {where}, outside the tunnel, which comes out in {egress.location.country}",
            "",
        )
    return "", ""


def _is_allowed(address: str, exit_: ExitSettings) -> bool:
    return any(ip_address(address) in network for network in exit_.dns_allow)


def _find_bypass(host: str, exit_: ExitSettings, route: RouteLookup) -> str | None:
    """Return the interface towards a resolver if it is not the tunnel's.

    A resolver on loopback sends its queries itself, by routes that are not visible from here.
    """
    if exit_.tunnel_interface is None or ip_address(host).is_loopback:
        return None
    interface = route(host)
    return None if interface in {exit_.tunnel_interface, "lo"} else interface
