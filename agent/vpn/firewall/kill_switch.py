"""Holds the kill switch closed while an agent lives, and knows where names are. It stays closed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from agent.config.settings import ExitSettings
from agent.net import host_lookup
from agent.net.host_lookup import UnknownHost
from agent.vpn import policy_routing
from agent.vpn.firewall import nftables
from agent.vpn.firewall.rules import AllowedPeer, AllowedTraffic
from agent.vpn.slots import slots_of
from model.endpoint import Endpoint
from model.errors import ExitplaneError

log = structlog.get_logger()

EVERY_S: Final = 10.0
"""How often it is seen to be closed, and names are looked up anew."""
_SOON_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Known:
    """Where everybody is by now; `missing` are names that nobody knows yet."""

    provider: frozenset[AllowedPeer]
    control: frozenset[AllowedPeer]
    missing: tuple[str, ...]


class KillSwitch:
    """The kill switch and the routes beside the tunnel, for an exit whose control plane is at `control` (spoken to by TCP)."""

    def __init__(self, exit_: ExitSettings, control: Iterable[Endpoint]) -> None:
        self._exit = exit_
        self._control = list(control)
        self._known: _Known | None = None
        self._changing = asyncio.Lock()
        assert exit_.tunnel_interface is not None
        self._slots = slots_of(exit_.tunnel_interface)

    async def admit(self, *more: Endpoint) -> None:
        """Let out what goes to the control plane at these places too, and close the rest. Raises ExitplaneError."""
        self._control += [each for each in more if each not in self._control]
        await self._settle(first=True)

    async def run(self) -> None:
        """See that it stays closed, and follow names that move, until cancelled."""
        while True:
            missing = self._known.missing if self._known else ()
            await asyncio.sleep(_SOON_S if missing else EVERY_S)
            try:
                await self._settle(first=False)
            except ExitplaneError as error:
                log.error("kill_switch.failed", reason=str(error))  # noqa: TRY400  # the reason says all

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of one of the provider's servers, which is let out there from now on. Raises UnknownHost."""
        found = await host_lookup.resolve(host)
        known = {way.address for way in self._known.provider} if self._known else set()
        if not known.issuperset(found):
            await self._settle(first=False)
        return found

    async def address_of(self, place: Endpoint) -> Endpoint:
        """A place of the control plane by its address, if that is known: Envoy asks the tunnel's resolvers for names."""
        try:
            return Endpoint((await host_lookup.resolve(place.host))[0], place.port)
        except UnknownHost:
            return place

    async def _settle(self, *, first: bool) -> None:
        """Close the switch as it should be now, unless it is."""
        async with self._changing:
            known = await self._look_up()
            before, self._known = self._known, known
            if not first and known == before and not await self._is_open():
                return
            if self._exit.kill_switch:
                await nftables.close(self._openings(known))
            if self._exit.servers:
                around = policy_routing.BypassAddresses(_addresses(known.provider), _addresses(known.control))
                await policy_routing.lay(around, self._slots, anew=first)
            log.info(
                "kill_switch.closed" if self._exit.kill_switch else "kill_switch.not_used", missing=list(known.missing)
            )

    async def _is_open(self) -> bool:
        if not self._exit.kill_switch or self._known is None:
            return False
        trouble = await nftables.check_table(self._openings(self._known))
        if trouble is not None:
            log.error("kill_switch.was_open", reason=trouble)
        return trouble is not None

    def _openings(self, known: _Known) -> AllowedTraffic:
        marked = bool(self._exit.servers)
        slots = self._slots if marked else self._slots[:1]
        interfaces = tuple(slot.interface for slot in slots)
        return AllowedTraffic(interfaces, self._exit.port, known.provider, known.control, marked=marked)

    async def _look_up(self) -> _Known:
        contacts = [contact for server in self._exit.servers for contact in server.contacts]
        missing: list[str] = []
        provider = await _ways([*contacts, *self._exit.tunnel_endpoints], missing)
        control = await _ways([(place, "tcp") for place in self._control], missing)
        return _Known(provider, control, tuple(missing))


async def _ways(contacts: Sequence[tuple[Endpoint, str]], missing: list[str]) -> frozenset[AllowedPeer]:
    """Raises UnknownHost for a name that nobody will ever know."""
    ways: set[AllowedPeer] = set()
    for place, protocol in dict.fromkeys(contacts):
        try:
            ways.update(AllowedPeer(address, place.port, protocol) for address in await host_lookup.resolve(place.host))
        except UnknownHost as error:
            if error.permanent:
                raise
            missing.append(place.host)
    return frozenset(ways)


def _addresses(ways: Iterable[AllowedPeer]) -> frozenset[str]:
    return frozenset(way.address for way in ways)
