"""What a client subscribed to for one type, what it was given, and what is on its way. Pure state; no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from xds.snapshot.resource import Resource

WILDCARD: Final = "*"
ABSENT: Final = ""
"""The version of a resource that the client was told does not exist."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A response that was sent and not yet answered."""

    given: Mapping[str, Resource]
    """What it added or changed, by name."""
    removed: frozenset[str]
    revision: int
    """Of the World that it was made of."""


@dataclass(slots=True)
class Subscription:
    """One type on one stream."""

    repeats: bool
    """Whether each response repeats all that the client holds, so that the resources themselves must be kept."""
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    """Names subscribed to one by one; they accumulate (fact 23)."""
    held: dict[str, str] = field(default_factory=dict)
    """Version by name of what the client holds, once it accepts what is in flight; ABSENT for what it was told is missing."""
    kept: dict[str, Resource] = field(default_factory=dict)
    """The accepted resources themselves, where `repeats`."""
    refused: dict[str, str] = field(default_factory=dict)
    """Version by name that the client rejected: never sent to it again (fact 3)."""
    flights: dict[str, Flight] = field(default_factory=dict)
    """By nonce."""
    last_nonce: str = ""
    """Of the newest response; any other is stale or foreign."""
    dirty: set[str] = field(default_factory=set)
    """Names for which the client may not hold what it should."""
    forced: set[str] = field(default_factory=set)
    """Names to answer even if the client holds them."""
    answer_due: bool = False
    """Answer even if there is nothing to say (facts 12 and 26)."""
    free_since: float | None = None
    """Since when nothing refers to the names that are to be removed."""

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def may_hold(self, name: str) -> bool:
        """Whether the client has a version of this resource, or may have taken the one that it rejected."""
        return self.held.get(name, ABSENT) != ABSENT or name in self.refused

    def add(self, names: Iterable[str]) -> None:
        """Subscribe to names; each must be answered."""
        for name in names:
            self.names.add(name)
            self.forced.add(name)
            self.dirty.add(name)

    def drop(self, names: Iterable[str]) -> None:
        """Unsubscribe from names. Under a wildcard the client keeps what matches it, and is told so (fact 24)."""
        for name in names:
            if name not in self.names:
                continue  # a phantom
            self.names.discard(name)
            if self.wildcard:
                self.forced.add(name)
                self.dirty.add(name)
            else:
                self.forget(name)

    def forget(self, name: str) -> None:
        """The client holds this name no more, and will not be told of it."""
        for table in (self.held, self.kept, self.refused):
            table.pop(name, None)
        self.dirty.discard(name)
        self.forced.discard(name)

    def take_off(self, nonce: str, flight: Flight) -> None:
        """A response goes out: from now on it is assumed to be accepted."""
        self.last_nonce = nonce
        self.flights[nonce] = flight
        for name, resource in flight.given.items():
            self.held[name] = resource.version
        for name in flight.removed:
            self.held[name] = ABSENT

    def accept(self, nonce: str) -> Flight | None:
        """The client acknowledged a response; None when the nonce is not of one in flight."""
        flight = self.flights.pop(nonce, None)
        if flight is None:
            return None
        for name, resource in flight.given.items():
            self.refused.pop(name, None)
            if self.repeats and self.wants(name):
                self.kept[name] = resource
        for name in flight.removed:
            self.kept.pop(name, None)
            self.refused.pop(name, None)
            if name not in self.names and self.held.get(name) == ABSENT:
                del self.held[name]
        return flight

    def reject(self, nonce: str) -> Flight | None:
        """The client rejected a response.

        Which of its resources it took all the same is not known (fact 8): their names count as unknown, so that any other
        version is sent, and the rejected one is not.
        """
        flight = self.flights.pop(nonce, None)
        if flight is None:
            return None
        for name, resource in flight.given.items():
            if self.held.get(name) == resource.version:
                del self.held[name]
            self.refused[name] = resource.version
            self.dirty.add(name)
        return flight
