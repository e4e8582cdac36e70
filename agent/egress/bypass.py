"""What leaves beside the tunnel: over IPv4 by another interface, or over IPv6."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.config.settings import ExitSettings
from agent.egress.dns_leak import Route
from agent.egress.finding import LeakFinding, joined
from agent.egress.geolocation import Geolocator
from agent.egress.http_sources import Answers, as_clients, ask_all, through_tunnel
from agent.egress.types import SeenAddress

_EVERYWHERE: Final = ("8.8.8.8", "77.88.8.8", "149.112.112.112", "208.67.222.222")
"""One address in each quarter of IPv4, which VPNs that take everything route by halves. Nothing is sent to them."""
_EVERYWHERE_6: Final = "2001:4860:4860::8888"
_BRIEFLY_S: Final = 2.0
"""How long it is waited for a way that should not be there."""
_IF_INET6: Final = Path("/proc/self/net/if_inet6")
_GLOBAL_SCOPE: Final = "00"


async def look_for_bypass(exit_: ExitSettings, route: Route) -> LeakFinding:
    """Whether what clients send takes the tunnel: first by the kernel's routes, and where they lead elsewhere by asking."""
    interface = exit_.tunnel_interface
    if interface is None or through_tunnel(exit_).family != socket.AF_INET:
        return LeakFinding()
    ways = [await asyncio.to_thread(route, address, exit_.egress_address) for address in _EVERYWHERE]
    if None in ways:
        return LeakFinding(trouble=f"nothing routes its traffic into its tunnel {interface}")
    others = [way for way in ways if way is not None and way != interface]
    if not others:
        return LeakFinding()
    sights = _sights(await ask_all(as_clients(exit_), exit_.sources, _BRIEFLY_S))
    if not sights:
        return LeakFinding(trouble=f"its traffic would leave by {others[0]}, not by its tunnel {interface}")
    return LeakFinding(
        leak=f"its traffic leaves by {others[0]}, outside its tunnel {interface}, from {sights[0].address}"
    )


async def look_over_ipv6(exit_: ExitSettings, route: Route) -> tuple[Answers, str | None]:
    """What sources see over IPv6, if anything can leave so, and the interface that it leaves by."""
    if exit_.parent is not None:
        return (), None  # what the parent does not carry leaves nowhere
    if through_tunnel(exit_).family != socket.AF_INET:
        return (), None
    way = await asyncio.to_thread(route, _EVERYWHERE_6)
    if way is None and not await asyncio.to_thread(_has_global_address):
        return (), None
    return await ask_all(as_clients(exit_, socket.AF_INET6), exit_.sources, _BRIEFLY_S), way


async def look_over_ipv6_by(exit_: ExitSettings) -> tuple[Answers, str | None]:
    """What sources see over IPv6 of what is bound to the exit's tunnel, which carries no clients yet."""
    if through_tunnel(exit_).family != socket.AF_INET:
        return (), None
    way = replace(as_clients(exit_, socket.AF_INET6), interface=exit_.tunnel_interface)
    return await ask_all(way, exit_.sources, _BRIEFLY_S), exit_.tunnel_interface


async def judge_ipv6(
    answers: Answers, way: str | None, exit_: ExitSettings, seen: SeenAddress | None, locator: Geolocator
) -> LeakFinding:
    """What the same says of an exit that comes out as `seen` over IPv4; None while that is not known."""
    leaks, troubles = [], []
    sights = _sights(answers)
    for sight in sights:
        place = sight.place if sight.place.country else await locator.find(sight.address)
        country = place.country if place else None
        if sight.address in exit_.host_addresses:
            leaks.append(f"its IPv6 traffic leaves from the host's own address {sight.address}")
        elif exit_.tunnel_interface is not None and way not in {exit_.tunnel_interface, None}:
            leaks.append(
                f"its IPv6 traffic leaves by {way}, outside its tunnel {exit_.tunnel_interface}, from {sight.address}"
            )
        elif country is None:
            troubles.append(f"its IPv6 address is {sight.address}, and nobody says where that is")
        elif seen is not None and country != seen.place.country:
            leaks.append(
                f"its IPv6 traffic leaves from {sight.address} in {country}, and its IPv4 traffic from {seen.address}"
                f" in {seen.place.country}"
            )
    return LeakFinding(joined(leaks), joined(troubles), seen=sights[0].address if sights else None)


def _sights(answers: Answers) -> list[SeenAddress]:
    return [answer for _, answer in answers if isinstance(answer, SeenAddress)]


def _has_global_address() -> bool:
    """Whether this namespace has an IPv6 address beyond link-local and loopback ones."""
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[3] == _GLOBAL_SCOPE for line in lines if len(line.split()) >= 4)
