"""A gateway's half of ending what goes through an exit that leaks or was removed: its open connections to it are cut.

An exit that leaves the configuration keeps its open tunnels, for most leave to be drained. So the agent asks the control plane,
with its next heartbeat, which of those that left must not keep them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from agent.ads.config_record import AcceptedResource, ConfigRecord
from agent.config.status import StatusBoard
from agent.net.ss import ss
from xds.wire.endpoint_pb2 import ClusterLoadAssignment

log = structlog.get_logger()

ENDPOINTS: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
ASKED_MAX: Final = 100


class ExitAddress(NamedTuple):
    """Where gateways dial an exit: an IP literal and a port."""

    address: str
    port: int


class ConnectionCutter:
    """Knows which exits left what Envoy was given, and cuts the connections to those that the control plane names."""

    def __init__(self, record: ConfigRecord, board: StatusBoard) -> None:
        self._record = record
        self._board = board
        self._read: dict[str, tuple[AcceptedResource, frozenset[ExitAddress]]] = {}
        self._offered: frozenset[ExitAddress] = self._places()
        self._gone: dict[ExitAddress, None] = {}

    async def run(self) -> None:
        """Follow what Envoy is given until cancelled."""
        while True:
            seen = self._record.seen
            self.look()
            await seen.wait()

    def look(self) -> None:
        """Note which exits left, and which came back."""
        before, self._offered = self._offered, self._places()
        for place in self._offered:
            self._gone.pop(place, None)
        left = before - self._offered
        if left:
            self._gone.update(dict.fromkeys(sorted(left)))
            self._board.update(exits_removed=self._board.report.exits_removed + 1)

    async def gone(self) -> Sequence[ExitAddress]:
        """Those that left while connections to them are open."""
        if not self._gone:
            return ()
        open_ = await open_places()
        self._gone = {place: None for place in self._gone if place in open_}
        return list(self._gone)[:ASKED_MAX]

    async def cut(self, places: Iterable[ExitAddress]) -> None:
        """End every open connection to these."""
        for place in places:
            if place not in self._gone:
                continue
            log.warning("exit.tunnels_cut", exit=f"{place.address}:{place.port}")
            await ss("-K", *_to(place))
            if place in await open_places():
                log.error(
                    "exit.tunnels_not_cut",
                    exit=f"{place.address}:{place.port}",
                    hint="run the agent with CAP_NET_ADMIN in Envoy's network namespace",
                )
            else:
                self._gone.pop(place, None)

    def _places(self) -> frozenset[ExitAddress]:
        kept: Mapping[str, AcceptedResource] = self._record.types.get(ENDPOINTS, {})
        self._read = {name: self._read_one(name, each) for name, each in kept.items()}
        return frozenset(place for _, places in self._read.values() for place in places)

    def _read_one(self, name: str, kept: AcceptedResource) -> tuple[AcceptedResource, frozenset[ExitAddress]]:
        known = self._read.get(name)
        if known is not None and known[0] is kept:
            return known
        found = ClusterLoadAssignment.FromString(kept.body)
        addresses = (each.endpoint.address.socket_address for at in found.endpoints for each in at.lb_endpoints)
        return kept, frozenset(ExitAddress(each.address, each.port_value) for each in addresses)


async def open_places() -> frozenset[ExitAddress]:
    """Where the open TCP connections of this network namespace lead to."""
    return frozenset(_peers(await ss()))


def _peers(listed: str) -> Iterable[ExitAddress]:
    for line in listed.splitlines():
        peer = line.split()[3] if len(line.split()) > 3 else ""
        address, _, port = peer.rpartition(":")
        if address and port.isdigit():
            yield ExitAddress(address.strip("[]").removeprefix("::ffff:").partition("%")[0], int(port))


def _to(place: ExitAddress) -> Sequence[str]:
    return ("dst", f"[{place.address}]" if ":" in place.address else place.address, "dport", "=", f":{place.port}")
