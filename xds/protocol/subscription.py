"""The server's state of one resource type on one stream. Pure state: no I/O, no clock. Rules: docs/xds-rules.md."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from xds.snapshot.resource import Resource

WILDCARD: Final = "*"
ABSENT: Final = ""
"""The version of a resource that the client was told does not exist."""
UNKNOWN: Final = "unknown"
"""The version of a resource that the client holds without a version: another server may have sent none."""
MAX_NACKED_VERSIONS: Final = 8
"""Rejected versions that are remembered of one name, so that a client that always rejects costs bounded memory."""
_WORDS: Final = re.compile(r"""[^\s,;:'"`()\[\]{}<>]+""")


class InFlightResponse(NamedTuple):
    """A response that was sent and is not yet acknowledged or rejected."""

    resources: Mapping[str, Resource]
    """Added or changed resources, by name."""
    removed: frozenset[str]
    revision: int
    """Revision of the World that the response was made from."""
    sent_at: float
    """On the clock of the stream's `now`."""


def find_at_fault(names: Collection[str], error: str) -> frozenset[str]:
    """Return the names that the error of a NACK mentions, or all names if it mentions none."""
    words = {word.strip(".") for word in _WORDS.findall(error)}
    return frozenset(name for name in names if name in words) or frozenset(names)


@dataclass(slots=True)
class Subscription:
    """The state of one resource type on one stream: what the client subscribed to, was sent, acknowledged and rejected."""

    full_state: bool
    """True if each response repeats everything that the client holds, so that acknowledged resources must be kept."""
    wildcard: bool = False
    explicit: bool = False
    """State of the world: True once the client has sent a name or `*`. From then on no names means none (rule 4)."""
    names: set[str] = field(default_factory=set)
    """Names subscribed to one by one; they accumulate (rule 23)."""
    client_versions: dict[str, str] = field(default_factory=dict)
    """Version by name of what the client holds once it accepts what is in flight; ABSENT for what it was told is missing."""
    acknowledged: dict[str, Resource] = field(default_factory=dict)
    """The resources that the client accepted last, by name; only with `full_state`."""
    nacked: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Rejected versions by name. They are not sent again unless the client subscribes to the name again (rule 3)."""
    unconfirmed: set[str] = field(default_factory=set)
    """Names in `client_versions` that the client has accepted in no version yet."""
    uncertain: set[str] = field(default_factory=set)
    """Names of which the client may hold another version than `client_versions` says, because of a NACK (rule 8)."""
    unsent_removals: set[str] = field(default_factory=set)
    """State of the world: names that no longer exist, which a response of this type cannot express (rule 14)."""
    in_flight: dict[str, InFlightResponse] = field(default_factory=dict)
    """Responses without an answer, by nonce."""
    last_nonce: str = ""
    """Nonce of the newest response; any other nonce is stale or foreign."""
    dirty: set[str] = field(default_factory=set)
    """Names for which the client may not hold the current version."""
    resend: set[str] = field(default_factory=set)
    """Names to send even if the client holds the current version."""
    response_due: bool = False
    """True if a response must be sent even if it is empty (rules 12 and 26)."""
    pending_removals: dict[str, float] = field(default_factory=dict)
    """Names whose removal waits for its grace: the time since when nothing refers to them."""

    @property
    def size(self) -> int:
        """Number of names remembered for the client."""
        return max(map(len, (self.names, self.client_versions, self.dirty, self.nacked, self.unsent_removals)))

    def is_subscribed(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def may_hold(self, name: str) -> bool:
        """Return whether the client has a version of this resource, or may have taken one that it rejected."""
        return self.client_versions.get(name, ABSENT) != ABSENT or name in self.uncertain

    def is_untold(self, name: str) -> bool:
        """Return whether the client names a resource, and was told nothing of it on this stream.

        It may hold one from an earlier stream, or have just read the name in a route that is about to change. Under a
        wildcard it learns at once what exists.
        """
        return not self.wildcard and name in self.names and name not in self.client_versions

    def not_held(self, names: frozenset[str]) -> Iterator[str]:
        """Yield the names that the client is still to be sent, or to accept, before it holds any version of them.

        It costs as much as what is pending. A rejected version that is not sent again is not pending.
        """
        for name in (names & self.dirty) | (names & self.unconfirmed):
            if name in self.unconfirmed or self.client_versions.get(name, ABSENT) == ABSENT:
                yield name

    def has_nacked(self, resource: Resource) -> bool:
        return resource.version in self.nacked.get(resource.name, ())

    def mark_dirty(self, names: AbstractSet[str]) -> None:
        """Mark subscribed names as possibly changed, and cancel their pending removals."""
        changed = names if self.wildcard else self.names & names
        self.dirty |= changed
        for name in self.pending_removals.keys() & changed:
            del self.pending_removals[name]

    def mark_resend(self, names: Iterable[str]) -> None:
        """Mark names to be sent even if the client holds them."""
        for name in names:
            self.dirty.add(name)
            self.resend.add(name)

    def add_names(self, names: Iterable[str]) -> None:
        """Subscribe to names. Held ones are sent again, because the client may have dropped them (rule 22)."""
        for name in names:
            self.names.add(name)
            self.nacked.pop(name, None)
            self.mark_resend([name])

    def add_former(self, resources: Iterable[Resource]) -> None:
        """Add resources that no longer exist, but that the client may hold: full states repeat them until they are removed."""
        for resource in resources:
            self.acknowledged[resource.name] = resource
            self.uncertain.add(resource.name)
            self.dirty.add(resource.name)

    def remove_names(self, names: Iterable[str]) -> None:
        """Unsubscribe from names. Under a wildcard the client keeps what matches it, and is sent it (rule 24)."""
        for name in names:
            if name not in self.names:
                continue  # never subscribed to
            self.names.discard(name)
            if self.wildcard:
                self.mark_resend([name])
            else:
                self.forget(name)

    def forget_unsubscribed(self) -> None:
        """Forget all names that are no longer subscribed to (rules 13 and 19)."""
        tables = (
            self.client_versions,
            self.acknowledged,
            self.dirty,
            self.nacked,
            self.uncertain,
            self.unsent_removals,
        )
        for name in set[str]().union(*tables):
            if not self.is_subscribed(name):
                self.forget(name)

    def forget(self, name: str) -> None:
        """Forget everything about a name that the client unsubscribed from."""
        self.forget_version(name)
        self.unsent_removals.discard(name)
        self.nacked.pop(name, None)

    def forget_version(self, name: str) -> None:
        """Forget what the client holds of a name; no removal is sent for it."""
        for table in (self.client_versions, self.acknowledged, self.pending_removals):
            table.pop(name, None)
        for names in (self.dirty, self.resend, self.unconfirmed, self.uncertain):
            names.discard(name)

    def record_sent(self, nonce: str, response: InFlightResponse) -> None:
        """Record a response that is being sent, and assume until its answer that it will be accepted."""
        self.last_nonce = nonce
        self.in_flight[nonce] = response
        self.response_due = False
        for name in [*response.resources, *response.removed]:
            self.dirty.discard(name)
            self.resend.discard(name)
            self.pending_removals.pop(name, None)
        for name, resource in response.resources.items():
            if self.client_versions.get(name, ABSENT) == ABSENT:
                self.unconfirmed.add(name)
            self.client_versions[name] = resource.version
            self.unsent_removals.discard(name)
        for name in response.removed:
            self.client_versions[name] = ABSENT

    def accept(self, nonce: str) -> InFlightResponse | None:
        """Record an ACK and return the accepted response; None if no response with this nonce is in flight."""
        response = self.in_flight.pop(nonce, None)
        if response is None:
            return None
        for name, resource in response.resources.items():
            self.uncertain.discard(name)
            self.unconfirmed.discard(name)
            if name not in self.client_versions:
                self._mark_uncertain(name)
            elif self.full_state:
                self.acknowledged[name] = resource
        for name in response.removed:
            self.uncertain.discard(name)
            self.acknowledged.pop(name, None)
            if name not in self.names and self.client_versions.get(name) == ABSENT:
                del self.client_versions[name]
        if self.full_state:  # the client deletes what an accepted full state leaves out, and holds what it repeats
            self.uncertain.intersection_update(self.acknowledged)
            for name, resource in self.acknowledged.items():
                self.client_versions.setdefault(name, resource.version)
        return response

    def reject(self, nonce: str, error: str) -> InFlightResponse | None:
        """Record a NACK and return the rejected response; None if no response with this nonce is in flight.

        A NACK is for the whole response, and does not say which resources the client took nevertheless (rule 8). So all
        of them become uncertain. Resources at fault are not sent again; the others are sent again without them. Each
        round finds at least one resource at fault, so this ends.
        """
        response = self.in_flight.pop(nonce, None)
        if response is None:
            return None
        at_fault = find_at_fault(response.resources, error)
        for name, resource in response.resources.items():
            unsubscribed = self.client_versions.pop(name, None) is None
            self.unconfirmed.discard(name)
            self._mark_uncertain(name)
            if name in at_fault and not unsubscribed:
                self.nacked[name] = (*self.nacked.get(name, ()), resource.version)[-MAX_NACKED_VERSIONS:]
        for name in response.removed & self.client_versions.keys():
            self.acknowledged.pop(name, None)
            if response.resources:
                del self.client_versions[name]
                self.mark_resend([name])  # rule 30: the client may not have processed it
            else:
                self.uncertain.add(name)  # the removal itself was rejected, so it is not repeated
        return response

    def _mark_uncertain(self, name: str) -> None:
        """Mark a name that the client may have taken, even if it unsubscribed and subscribed again meanwhile."""
        if self.is_subscribed(name):
            self.uncertain.add(name)
            self.dirty.add(name)
