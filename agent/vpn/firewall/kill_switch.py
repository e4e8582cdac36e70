"""The kill switch of a running agent: closed at the start, kept closed, and left closed at the end."""

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

CHECK_EVERY_S: Final = 10.0
"""The interval at which the kernel's table is checked and names are resolved again."""
_RETRY_MISSING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _ResolvedPeers:
    """The peers outside the tunnel by their addresses. `missing` are host names that could not be resolved yet."""

    provider: frozenset[AllowedPeer]
    control: frozenset[AllowedPeer]
    missing: tuple[str, ...]


class KillSwitch:
    """The kill switch of an exit, and its routes around the tunnel. The control plane is at `control`, reached by TCP.

    The exit answers at its port, and at `ports`.
    """

    def __init__(self, exit_: ExitSettings, control: Iterable[Endpoint], ports: Iterable[int] = ()) -> None:
        self._exit = exit_
        self._control = list(control)
        self._ports = (exit_.port, *ports)
        self._peers: _ResolvedPeers | None = None
        self._lock = asyncio.Lock()
        assert exit_.tunnel_interface is not None
        self._slots = slots_of(exit_.tunnel_interface)

    async def allow_control(self, *more: Endpoint) -> None:
        """Close the switch, with `more` endpoints of the control plane allowed. Raises ExitplaneError."""
        self._control += [each for each in more if each not in self._control]
        await self._apply(always=True)

    async def run(self) -> None:
        """Keep the switch closed, and follow names whose addresses change, until cancelled."""
        while True:
            missing = self._peers.missing if self._peers else ()
            await asyncio.sleep(_RETRY_MISSING_S if missing else CHECK_EVERY_S)
            try:
                await self._apply(always=False)
            except ExitplaneError as error:
                log.error("kill_switch.failed", reason=str(error))  # noqa: TRY400  # the reason says all

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Resolve a server of the provider, and allow packets to its addresses. Raises UnknownHost."""
        addresses = await host_lookup.resolve(host)
        allowed = {peer.address for peer in self._peers.provider} if self._peers else set()
        if not allowed.issuperset(addresses):
            await self._apply(always=False)
        return addresses

    async def resolve_endpoint(self, endpoint: Endpoint) -> Endpoint:
        """Replace the control plane's host name by its address, if it is known: Envoy asks the tunnel's resolvers."""
        try:
            return Endpoint((await host_lookup.resolve(endpoint.host))[0], endpoint.port)
        except UnknownHost:
            return endpoint

    async def _apply(self, *, always: bool) -> None:
        """Close the switch for the peers as they resolve now; skip that if nothing changed, unless `always`."""
        async with self._lock:
            peers = await self._resolve_peers()
            before, self._peers = self._peers, peers
            if not always and peers == before and not await self._is_open():
                return
            if self._exit.kill_switch:
                await nftables.close(self._allowed(peers))
            if self._exit.servers:
                bypass = policy_routing.BypassAddresses(_addresses(peers.provider), _addresses(peers.control))
                await policy_routing.apply_rules(bypass, self._slots, replace_all=always)
            log.info(
                "kill_switch.closed" if self._exit.kill_switch else "kill_switch.not_used", missing=list(peers.missing)
            )

    async def _is_open(self) -> bool:
        if not self._exit.kill_switch or self._peers is None:
            return False
        reason = await nftables.check_table(self._allowed(self._peers))
        if reason is not None:
            log.error("kill_switch.was_open", reason=reason)
        return reason is not None

    def _allowed(self, peers: _ResolvedPeers) -> AllowedTraffic:
        marked = bool(self._exit.servers)
        slots = self._slots if marked else self._slots[:1]
        interfaces = tuple(slot.interface for slot in slots)
        return AllowedTraffic(interfaces, self._ports, peers.provider, peers.control, marked=marked)

    async def _resolve_peers(self) -> _ResolvedPeers:
        contacts = [contact for server in self._exit.servers for contact in server.contacts]
        missing: list[str] = []
        provider = await _resolve([*contacts, *self._exit.tunnel_endpoints], missing)
        control = await _resolve([(endpoint, "tcp") for endpoint in self._control], missing)
        return _ResolvedPeers(provider, control, tuple(missing))


async def _resolve(contacts: Sequence[tuple[Endpoint, str]], missing: list[str]) -> frozenset[AllowedPeer]:
    """Resolve contacts, and add hosts that are not known yet to `missing`. Raises UnknownHost for one that never will be."""
    peers: set[AllowedPeer] = set()
    for endpoint, protocol in dict.fromkeys(contacts):
        try:
            addresses = await host_lookup.resolve(endpoint.host)
        except UnknownHost as error:
            if error.permanent:
                raise
            missing.append(endpoint.host)
        else:
            peers.update(AllowedPeer(address, endpoint.port, protocol) for address in addresses)
    return frozenset(peers)


def _addresses(peers: Iterable[AllowedPeer]) -> frozenset[str]:
    return frozenset(peer.address for peer in peers)
