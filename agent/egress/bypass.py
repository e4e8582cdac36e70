"""Checks for traffic that bypasses the tunnel: IPv4 by another interface, or IPv6."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.config.settings import ExitSettings
from agent.egress.dns_leak import RouteLookup
from agent.egress.geolocation import Geolocator
from agent.egress.http_sources import Answers, build_client_path, build_tunnel_path, query_sources
from agent.egress.leak_check import LeakFinding, join_messages
from agent.egress.types import SeenAddress

_IPV4_DESTINATIONS: Final = ("8.8.8.8", "77.88.8.8", "149.112.112.112", "208.67.222.222")
"""One destination in each quarter of IPv4, because VPNs often replace the default route by halves. Nothing is sent to them."""
_IPV6_DESTINATION: Final = "2001:4860:4860::8888"
_TIMEOUT_S: Final = 2.0
"""Short, because a path outside the tunnel is not expected to answer."""
_IF_INET6: Final = Path("/proc/self/net/if_inet6")
_GLOBAL_SCOPE: Final = "00"


async def check_bypass(exit_: ExitSettings, route: RouteLookup) -> LeakFinding:
    """Check that the kernel routes clients' traffic into the tunnel; where it does not, ask the sources if anything leaves."""
    interface = exit_.tunnel_interface
    if interface is None or build_tunnel_path(exit_).family != socket.AF_INET:
        return LeakFinding()
    routes = [await asyncio.to_thread(route, address, exit_.egress_address) for address in _IPV4_DESTINATIONS]
    if None in routes:
        return LeakFinding(error=f"no route leads its traffic into its tunnel {interface}")
    others = [each for each in routes if each is not None and each != interface]
    if not others:
        return LeakFinding()
    seen = _select_addresses(await query_sources(build_client_path(exit_), exit_.sources, _TIMEOUT_S))
    if not seen:
        return LeakFinding(error=f"its traffic would leave by {others[0]}, not by its tunnel {interface}")
    return LeakFinding(
        leak=f"its traffic leaves by {others[0]}, outside its tunnel {interface}, from {seen[0].address}"
    )


async def query_over_ipv6(exit_: ExitSettings, route: RouteLookup) -> tuple[Answers, str | None]:
    """Query the sources over IPv6 if it can leave at all; return their answers and the interface that the route names."""
    if exit_.parent is not None:
        return (), None  # all traffic goes to the parent, so no IPv6 leaves here
    if build_tunnel_path(exit_).family != socket.AF_INET:
        return (), None
    interface = await asyncio.to_thread(route, _IPV6_DESTINATION)
    if interface is None and not await asyncio.to_thread(_has_global_address):
        return (), None
    return await query_sources(build_client_path(exit_, socket.AF_INET6), exit_.sources, _TIMEOUT_S), interface


async def query_over_ipv6_through(exit_: ExitSettings) -> tuple[Answers, str | None]:
    """Query the sources over IPv6, bound to the exit's tunnel, for a tunnel that carries no clients yet."""
    if build_tunnel_path(exit_).family != socket.AF_INET:
        return (), None
    path = replace(build_client_path(exit_, socket.AF_INET6), interface=exit_.tunnel_interface)
    return await query_sources(path, exit_.sources, _TIMEOUT_S), exit_.tunnel_interface


async def evaluate_ipv6(
    answers: Answers,
    interface: str | None,
    exit_: ExitSettings,
    ipv4: SeenAddress | None,
    locator: Geolocator,
) -> LeakFinding:
    """Compare IPv6 answers with the exit's address over IPv4, which is None while unknown."""
    leaks, errors = [], []
    seen = _select_addresses(answers)
    for each in seen:
        location = each.location if each.location.country else await locator.find(each.address)
        country = location.country if location else None
        if each.address in exit_.host_addresses:
            leaks.append(f"its IPv6 traffic leaves from the host's own address {each.address}")
        elif exit_.tunnel_interface is not None and interface not in {exit_.tunnel_interface, None}:
            leaks.append(
                f"its IPv6 traffic leaves by {interface}, outside its tunnel {exit_.tunnel_interface},"
                f" from {each.address}"
            )
        elif country is None:
            errors.append(f"its IPv6 address is {each.address}, whose country is unknown")
        elif ipv4 is not None and country != ipv4.location.country:
            leaks.append(
                f"its IPv6 traffic leaves from {each.address} in {country}, and its IPv4 traffic from {ipv4.address}"
                f" in {ipv4.location.country}"
            )
    return LeakFinding(join_messages(leaks), join_messages(errors), observed=seen[0].address if seen else None)


def _select_addresses(answers: Answers) -> list[SeenAddress]:
    return [answer for _, answer in answers if isinstance(answer, SeenAddress)]


def _has_global_address() -> bool:
    """Return whether this network namespace has an IPv6 address of global scope."""
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[3] == _GLOBAL_SCOPE for line in lines if len(line.split()) >= 4)
