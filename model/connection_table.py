"""Bounds on the connections of a listener, so that strangers keep nobody out (docs/decisions/0034-strangers-wait-in-a-bounded-line.md).

A connection waits from its acceptance until a request on it is authenticated. Waiting connections are closed when they wait for
too long, or when there are too many. A client with more than an equal share then loses its own, and otherwise the one that has
waited longest goes, so a new one always gets in.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, Generic, TypeVar

import structlog

from model.client_address import client_network

log = structlog.get_logger()
K = TypeVar("K", bound=Hashable)
BURST_GAP_S: Final = 60.0
"""Connections that are closed within this time of each other are one burst, which is logged once."""


class CloseReason(StrEnum):
    TIMEOUT = "timeout"
    TOO_MANY_OF_ADDRESS = "too_many_of_address"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of one listener."""

    total: int = 10_000
    waiting_per_address: int = 1_000
    """Waiting connections of one client address; see `client_network`."""
    wait_s: float = 20
    trusted: Sequence[IPv4Network | IPv6Network] = ()
    """Addresses of proxies, whose connections are those of many clients."""


class ConnectionTable(Generic[K]):
    """The open connections of a listener, by any key. Callers close the connections that it returns, which it then forgets."""

    def __init__(self, name: str, limits: ConnectionLimits, now: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._limits = limits
        self._now = now
        self._clients: dict[K, str] = {}
        """The client of each open connection."""
        self._since: OrderedDict[K, float] = OrderedDict()
        """Since when each waiting connection waits, the longest first."""
        self._of_client: dict[str, OrderedDict[K, None]] = {}
        """The waiting connections of each client, in the same order."""
        self.closed: Counter[CloseReason] = Counter()
        self._closed_at = float("-inf")

    @property
    def open(self) -> int:
        return len(self._clients)

    @property
    def waiting(self) -> int:
        return len(self._since)

    def add(self, key: K, address: str, *, waits: bool = True) -> list[K]:
        """Add an accepted connection. Return the connections to close for it, which may be itself."""
        client = client_network(address)
        self._clients[key] = client
        if waits:
            self.wait(key)
        own = self._of_client.get(client, OrderedDict[K, None]())
        if len(own) > self._limits.waiting_per_address and not self._is_trusted(client):
            return [self._close(next(iter(own)), CloseReason.TOO_MANY_OF_ADDRESS)]
        if len(self._clients) > self._limits.total and self._since:
            has_more_than_others = len(own) * len(self._of_client) > len(self._since)
            return [self._close(next(iter(own if has_more_than_others else self._since)), CloseReason.TOO_MANY)]
        return []

    def wait(self, key: K) -> None:
        """Note that a connection waits from now on, because a new request begins or its last one has ended."""
        client = self._clients.get(key)
        if client is not None:
            self.serve(key)
            self._since[key] = self._now()
            self._of_client.setdefault(client, OrderedDict())[key] = None

    def serve(self, key: K) -> None:
        """Note that the request on a connection is authenticated, so that nothing closes it."""
        if self._since.pop(key, None) is None:
            return
        client = self._clients[key]
        del self._of_client[client][key]
        if not self._of_client[client]:
            del self._of_client[client]

    def remove(self, key: K) -> None:
        """Forget a connection that has ended."""
        self.serve(key)
        self._clients.pop(key, None)

    def overdue(self) -> list[K]:
        """Return the connections to close because they have waited for too long."""
        before = self._now() - self._limits.wait_s
        keys = []
        for key, since in self._since.items():
            if since > before:
                break
            keys.append(key)
        return [self._close(key, CloseReason.TIMEOUT) for key in keys]

    def _close(self, key: K, reason: CloseReason) -> K:
        self.closed[reason] += 1
        now = self._now()
        if now - self._closed_at > BURST_GAP_S:
            log.warning(
                "connections.limited",
                listener=self._name,
                reason=reason.value,
                client=self._clients[key],
                open=self.open,
                waiting=self.waiting,
            )
        self._closed_at = now
        self.remove(key)
        return key

    def _is_trusted(self, client: str) -> bool:
        try:
            address = ip_address(client.partition("/")[0])
        except ValueError:
            return False
        return any(address in network for network in self._limits.trusted)
