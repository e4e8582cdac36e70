"""The gateway's cutter, which ends open connections to exits that leak or were removed.

Most exits that leave the configuration are drained and keep their open tunnels. So the agent asks the control plane, with its next
heartbeat, to which of the departed exits the connections must be cut.
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
DEPARTED_MAX: Final = 100
"""The number of exits that one heartbeat asks about."""


class ExitAddress(NamedTuple):
    """The address at which gateways connect to an exit: an IP literal and a port."""

    address: str
    port: int


class ConnectionCutter:
    """Tracks exits that departed from Envoy's endpoints, and cuts the connections to those that the control plane names."""

    def __init__(self, record: ConfigRecord, board: StatusBoard) -> None:
        self._record = record
        self._board = board
        self._parsed: dict[str, tuple[AcceptedResource, frozenset[ExitAddress]]] = {}
        self._offered: frozenset[ExitAddress] = self._read_exits()
        self._departed: dict[ExitAddress, None] = {}

    async def run(self) -> None:
        """Follow the record until cancelled."""
        while True:
            change = self._record.next_change
            self.refresh()
            await change.wait()

    def refresh(self) -> None:
        """Note which exits departed from the record and which returned."""
        before, self._offered = self._offered, self._read_exits()
        for each in self._offered:
            self._departed.pop(each, None)
        departed = before - self._offered
        if departed:
            self._departed.update(dict.fromkeys(sorted(departed)))
            self._board.update(exits_removed=self._board.report.exits_removed + 1)

    async def list_departed(self) -> Sequence[ExitAddress]:
        """Return the departed exits to which connections are open, and forget the others."""
        if not self._departed:
            return ()
        peers = await list_peers()
        self._departed = {each: None for each in self._departed if each in peers}
        return list(self._departed)[:DEPARTED_MAX]

    async def cut(self, exits: Iterable[ExitAddress]) -> None:
        """Close all open connections to these exits, if they departed."""
        for each in exits:
            if each not in self._departed:
                continue
            log.warning("exit.connections_cut", exit=f"{each.address}:{each.port}")
            await ss("-K", *_build_filter(each))
            if each in await list_peers():
                log.error(
                    "exit.connections_not_cut",
                    exit=f"{each.address}:{each.port}",
                    hint="run the agent with CAP_NET_ADMIN in Envoy's network namespace",
                )
            else:
                self._departed.pop(each, None)

    def _read_exits(self) -> frozenset[ExitAddress]:
        assignments: Mapping[str, AcceptedResource] = self._record.types.get(ENDPOINTS, {})
        self._parsed = {name: self._parse(name, each) for name, each in assignments.items()}
        return frozenset(each for _, exits in self._parsed.values() for each in exits)

    def _parse(self, name: str, resource: AcceptedResource) -> tuple[AcceptedResource, frozenset[ExitAddress]]:
        known = self._parsed.get(name)
        if known is not None and known[0] is resource:
            return known
        assignment = ClusterLoadAssignment.FromString(resource.body)
        addresses = (each.endpoint.address.socket_address for at in assignment.endpoints for each in at.lb_endpoints)
        return resource, frozenset(ExitAddress(each.address, each.port_value) for each in addresses)


async def list_peers() -> frozenset[ExitAddress]:
    """Return the remote ends of the open TCP connections in this network namespace."""
    return frozenset(_parse_peers(await ss()))


def _parse_peers(listing: str) -> Iterable[ExitAddress]:
    for line in listing.splitlines():
        peer = line.split()[3] if len(line.split()) > 3 else ""
        address, _, port = peer.rpartition(":")
        if address and port.isdigit():
            yield ExitAddress(address.strip("[]").removeprefix("::ffff:").partition("%")[0], int(port))


def _build_filter(exit_: ExitAddress) -> Sequence[str]:
    """Build the `ss` filter for the connections to an exit."""
    host = f"[{exit_.address}]" if ":" in exit_.address else exit_.address
    return ("dst", host, "dport", "=", f":{exit_.port}")
