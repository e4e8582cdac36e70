"""What a client subscribed to for one type, what it was given, and what is on its way. Pure state; no I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from xds.snapshot.resource import Resource

WILDCARD: Final = "*"
ABSENT: Final = ""
"""The version of a resource that the client was told does not exist."""
UNKNOWN: Final = "unknown"
"""The version of a resource that the client holds without one: another server may have sent none."""
MOST_REFUSALS: Final = 8
"""Versions of one name that are remembered as rejected, so that a client that rejects for ever costs bounded memory."""
_WORDS: Final = re.compile(r"""[^\s,;:'"`()\[\]{}<>]+""")


class InFlightResponse(NamedTuple):
    """A response that was sent and not yet answered."""

    given: Mapping[str, Resource]
    """What it added or changed, by name."""
    removed: frozenset[str]
    revision: int
    """Of the World that it was made of."""
    at: float
    """When it was sent, on the clock of the stream's `now`."""


def blamed(names: Collection[str], error: str) -> frozenset[str]:
    """Which resources of a response a rejection is laid to: those that its words name, or all if they name none."""
    words = {word.strip(".") for word in _WORDS.findall(error)}
    return frozenset(name for name in names if name in words) or frozenset(names)


@dataclass(slots=True)
class Subscription:
    """One type on one stream."""

    repeats: bool
    """Whether each response repeats all that the client holds, so that the resources themselves must be kept."""
    wildcard: bool = False
    explicit: bool = False
    """State of the world: whether any name, or `*` itself, was ever asked for; then no names means none (rule 4)."""
    names: set[str] = field(default_factory=set)
    """Names subscribed to one by one; they accumulate (rule 23)."""
    held: dict[str, str] = field(default_factory=dict)
    """Version by name of what the client holds, once it accepts what is in flight; ABSENT for what it was told is missing."""
    kept: dict[str, Resource] = field(default_factory=dict)
    """The accepted resources themselves, where `repeats`."""
    refused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Versions by name that the client rejected: not sent to it again, unless it asks for the name anew (rule 3)."""
    doubtful: set[str] = field(default_factory=set)
    """Names of which the client may hold something else than it should, because it rejected that (rule 8)."""
    left: set[str] = field(default_factory=set)
    """State of the world: names that ceased to exist, of which the client could not be told."""
    flights: dict[str, InFlightResponse] = field(default_factory=dict)
    """By nonce."""
    last_nonce: str = ""
    """Of the newest response; any other is stale or foreign."""
    dirty: set[str] = field(default_factory=set)
    """Names for which the client may not hold what it should."""
    forced: set[str] = field(default_factory=set)
    """Names to answer even if the client holds them."""
    answer_due: bool = False
    """Answer even if there is nothing to say (rules 12 and 26)."""
    free: dict[str, float] = field(default_factory=dict)
    """Since when nothing refers to a name that is to be removed."""

    @property
    def size(self) -> int:
        """How many names are remembered on the client's behalf."""
        return max(map(len, (self.names, self.held, self.dirty, self.refused, self.left)))

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def may_hold(self, name: str) -> bool:
        """Whether the client has a version of this resource, or may have taken the one that it rejected."""
        return self.held.get(name, ABSENT) != ABSENT or name in self.doubtful

    def has_refused(self, resource: Resource) -> bool:
        return resource.version in self.refused.get(resource.name, ())

    def touch(self, names: AbstractSet[str]) -> None:
        """These may be something else now, so whatever freed one of them frees it no more."""
        touched = names if self.wildcard else self.names & names
        self.dirty |= touched
        for name in self.free.keys() & touched:
            del self.free[name]

    def force(self, names: Iterable[str]) -> None:
        """Answer these, even if the client holds them."""
        for name in names:
            self.dirty.add(name)
            self.forced.add(name)

    def add(self, names: Iterable[str]) -> None:
        """Subscribe to names; each must be answered, one that is held too: the client may have forgotten it (rule 22)."""
        for name in names:
            self.names.add(name)
            self.refused.pop(name, None)
            self.force([name])

    def drop(self, names: Iterable[str]) -> None:
        """Unsubscribe from names. Under a wildcard the client keeps what matches it, and is told so (rule 24)."""
        for name in names:
            if name not in self.names:
                continue  # a phantom
            self.names.discard(name)
            if self.wildcard:
                self.force([name])
            else:
                self.forget(name)

    def narrow(self) -> None:
        """Forget all that is subscribed to no more (rules 13 and 19)."""
        for name in {*self.held, *self.kept, *self.dirty, *self.refused, *self.doubtful, *self.left}:
            if not self.wants(name):
                self.forget(name)

    def forget(self, name: str) -> None:
        """The client gave this name up: what it knew of it counts no more."""
        self.lose(name)
        self.left.discard(name)
        self.refused.pop(name, None)

    def lose(self, name: str) -> None:
        """The client holds this name no more, and will not be told of it."""
        for table in (self.held, self.kept, self.free):
            table.pop(name, None)
        for names in (self.dirty, self.forced, self.doubtful):
            names.discard(name)

    def take_off(self, nonce: str, flight: InFlightResponse) -> None:
        """A response goes out: from now on it is assumed to be accepted."""
        self.last_nonce = nonce
        self.flights[nonce] = flight
        self.answer_due = False
        for name in [*flight.given, *flight.removed]:
            self.dirty.discard(name)
            self.forced.discard(name)
            self.free.pop(name, None)
        for name, resource in flight.given.items():
            self.held[name] = resource.version
            self.left.discard(name)
        for name in flight.removed:
            self.held[name] = ABSENT

    def accept(self, nonce: str) -> InFlightResponse | None:
        """The client acknowledged a response; None when the nonce is not of one in flight."""
        flight = self.flights.pop(nonce, None)
        if flight is None:
            return None
        for name, resource in flight.given.items():
            self.doubtful.discard(name)
            if name not in self.held:
                self._doubt(name)
            elif self.repeats:
                self.kept[name] = resource
        for name in flight.removed:
            self.doubtful.discard(name)
            self.kept.pop(name, None)
            if name not in self.names and self.held.get(name) == ABSENT:
                del self.held[name]
        if self.repeats:  # what an accepted state leaves out, the client does not hold
            self.doubtful.intersection_update(self.kept)
            for name, resource in self.kept.items():  # and what it repeats, the client does
                self.held.setdefault(name, resource.version)
        return flight

    def reject(self, nonce: str, error: str) -> InFlightResponse | None:
        """The client rejected a response.

        A rejection is for the whole, and which resources were taken all the same is not known (rule 8), so that all count
        as unknown. Those at fault are not sent again; the others are, without them. As each round finds one at fault, this
        ends.
        """
        flight = self.flights.pop(nonce, None)
        if flight is None:
            return None
        at_fault = blamed(flight.given, error)
        for name, resource in flight.given.items():
            given_up = self.held.pop(name, None) is None
            self._doubt(name)
            if name in at_fault and not given_up:
                self.refused[name] = (*self.refused.get(name, ()), resource.version)[-MOST_REFUSALS:]
        for name in flight.removed & self.held.keys():
            self.kept.pop(name, None)
            if flight.given:
                del self.held[name]
                self.force([name])  # rule 30: it may have been overlooked
            else:
                self.doubtful.add(name)  # the removal itself was rejected: it is not repeated
        return flight

    def _doubt(self, name: str) -> None:
        """The client may have taken this from a response, even if it gave the name up and asked for it again meanwhile."""
        if self.wants(name):
            self.doubtful.add(name)
            self.dirty.add(name)
