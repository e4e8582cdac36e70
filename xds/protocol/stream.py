"""One xDS stream as a state machine without I/O: requests and views in, actions out.

Both variants share it; what differs between them is in `delta` and `sotw`. Time is given, never asked for. The rules that
comments number are those of docs/xds-rules.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias

from model.identity import Identity
from xds.protocol import delta, sotw
from xds.protocol.messages import Malformed, Request, Variant, delta_response, parse, sotw_response
from xds.protocol.subscription import Flight, Subscription
from xds.snapshot.order import ADDITIONS, FOLLOWED_BY, FULL_STATE, REMOVALS
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import View

MAX_NAMES = 200_000
"""Names of one type that one stream may subscribe to."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes to the client."""

    type_url: str
    nonce: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The client accepted (`error` is None) or rejected a response made of the World at `revision`."""

    type_url: str
    given: Mapping[str, Resource]
    revision: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Close:
    """End the stream with this gRPC status."""

    status: str
    message: str


Action: TypeAlias = Send | Answered | Close


class Stream:
    """The server's side of one stream.

    `identity` is who the client is, from its certificate; `only` the type of a per-type service, None for ADS. `wake_at` is
    when `wake` wants to be called (the clock of the `now` arguments, seconds), None for never.
    """

    def __init__(
        self, variant: Variant, identity: Identity, view: View, *, only: str | None = None, removal_grace_s: float = 0
    ) -> None:
        self.variant = variant
        self.identity = identity
        self.wake_at: float | None = None
        self._view = view
        self._only = only
        self._grace_s = removal_grace_s
        self._types: dict[str, Subscription] = {}
        self._nonces = (str(number) for number in count(1))

    def receive(self, raw: bytes, now: float) -> Sequence[Action]:
        """What to do about a request."""
        try:
            request = parse(self.variant, raw)
        except Malformed as error:
            return [Close("INVALID_ARGUMENT", f"not a discovery request: {error}")]
        type_url = request.type_url or self._only
        if type_url is None:
            return [Close("INVALID_ARGUMENT", "type_url is missing, and an aggregated stream needs it")]  # rule 1
        if self._only and type_url != self._only:
            return [Close("INVALID_ARGUMENT", f"this service streams {self._only} alone")]
        if type_url not in ADDITIONS:
            return []  # nothing of this type is served, so there is nothing to say about it
        return self._receive(replace(request, type_url=type_url), now)

    def publish(self, view: View, changed: Mapping[str, Iterable[str]] | None, now: float) -> Sequence[Action]:
        """What to do about a new view; `changed` are the names by type URL that may differ, None for any."""
        old, self._view = self._view, view
        for type_url, subscription in self._types.items():
            names = changed.get(type_url, ()) if changed is not None else _any_names(type_url, old, view)
            subscription.dirty.update(name for name in names if subscription.wants(name))
        return self._advance(now)

    def wake(self, now: float) -> Sequence[Action]:
        """What to do when `wake_at` has come."""
        return self._advance(now)

    def _receive(self, request: Request, now: float) -> Sequence[Action]:
        first = request.type_url not in self._types
        repeats = self.variant is Variant.SOTW and request.type_url in FULL_STATE
        subscription = self._types.setdefault(request.type_url, Subscription(repeats=repeats))
        actions = list(self._answers(subscription, request))
        variant = delta if self.variant is Variant.DELTA else sotw
        may_answer = variant.subscribe(subscription, request, self._view, first=first)
        if len(subscription.names) > MAX_NAMES:
            return [*actions, Close("RESOURCE_EXHAUSTED", f"more than {MAX_NAMES} names of one type")]
        return [*actions, *self._advance(now)] if may_answer else actions

    def _answers(self, subscription: Subscription, request: Request) -> Iterator[Action]:
        """The acknowledgement or rejection that a request carries; one with a stale or foreign nonce carries none."""
        # rule 3: a rejection is the presence of an error, never a comparison of versions
        answer = subscription.accept if request.error is None else subscription.reject
        flight = answer(request.nonce)
        if flight is not None:
            yield Answered(request.type_url, flight.given, flight.revision, request.error)

    def _advance(self, now: float) -> Sequence[Action]:
        """Send what may be sent: additions in their order, then removals; each gated as `snapshot.order` says."""
        actions: list[Action] = []
        self.wake_at = None
        due: set[str] = set()
        for type_url, after in ADDITIONS.items():
            subscription = self._types.get(type_url)
            if subscription is None:
                continue
            additions = self._additions(type_url, subscription)
            if not additions and not subscription.answer_due:
                continue
            if subscription.flights or any(other in due or self._flying(other) for other in after):
                due.add(type_url)
            else:
                actions += self._add(type_url, subscription, additions)
        for type_url, referrers in REMOVALS.items():
            if type_url in self._types:
                settled = not any(other in due or self._unsettled(other) for other in referrers)
                actions += self._remove(type_url, self._types[type_url], now, settled=settled)
        return actions

    def _additions(self, type_url: str, subscription: Subscription) -> dict[str, Resource | None]:
        """The names to answer, with what they are now; None for one that is asked for and does not exist (rule 25).

        Names for which the client needs nothing leave the dirty ones on the way; removals stay and wait for their turn.
        """
        additions: dict[str, Resource | None] = {}
        for name in [*subscription.dirty]:
            resource = self._view.get(type_url, name)
            held, forced = subscription.held.get(name), name in subscription.forced
            if resource is not None:
                wanted = (forced or held != resource.version) and subscription.refused.get(name) != resource.version
            else:
                if subscription.may_hold(name) and not forced:
                    continue
                wanted = self.variant is Variant.DELTA and (forced or (name in subscription.names and held is None))
            if wanted:
                additions[name] = resource
            else:
                subscription.dirty.discard(name)
                subscription.forced.discard(name)
        return additions

    def _add(
        self, type_url: str, subscription: Subscription, additions: dict[str, Resource | None]
    ) -> Iterator[Action]:
        given = {name: resource for name, resource in additions.items() if resource is not None}
        missing = frozenset(name for name, resource in additions.items() if resource is None)
        follower = self._types.get(FOLLOWED_BY.get(type_url, ""))
        if follower is not None:
            again = follower.names & given.keys()  # rule 33
            follower.forced |= again
            follower.dirty |= again
        yield from self._send(type_url, subscription, given, missing)

    def _remove(self, type_url: str, subscription: Subscription, now: float, *, settled: bool) -> Iterator[Action]:
        gone = self._gone(type_url, subscription)
        if not gone or not settled:
            subscription.free_since = None
            return
        if subscription.free_since is None:
            subscription.free_since = now
        due_at = subscription.free_since + self._grace_s
        if now < due_at:
            self.wake_at = min(due_at, self.wake_at or due_at)
        elif not subscription.flights:
            subscription.free_since = None
            if self.variant is Variant.DELTA or type_url in FULL_STATE:
                yield from self._send(type_url, subscription, {}, gone)
            else:
                for name in gone:  # rule 14: state of the world has no way to say it, and needs none
                    subscription.forget(name)

    def _send(
        self, type_url: str, subscription: Subscription, given: Mapping[str, Resource], removed: frozenset[str]
    ) -> Iterator[Action]:
        subscription.answer_due = False
        for name in [*given, *removed]:
            subscription.dirty.discard(name)
            subscription.forced.discard(name)
        if self.variant is Variant.SOTW:
            nonce = next(self._nonces)
            subscription.take_off(nonce, Flight(given, removed, self._view.revision))
            yield Send(type_url, nonce, self._sotw_response(type_url, subscription, given, removed, nonce))
            return
        for part in delta.split(given.values(), removed):
            nonce = next(self._nonces)
            flight = Flight({resource.name: resource for resource in part.given}, part.removed, self._view.revision)
            subscription.take_off(nonce, flight)
            revision = str(self._view.revision)
            yield Send(type_url, nonce, delta_response(type_url, nonce, part.given, part.removed, revision))

    def _sotw_response(
        self,
        type_url: str,
        subscription: Subscription,
        given: Mapping[str, Resource],
        removed: frozenset[str],
        nonce: str,
    ) -> bytes:
        if type_url not in FULL_STATE:
            version = sotw.version_of(type_url, subscription, self._view)
            return sotw_response(type_url, nonce, given.values(), version)
        # all that the client keeps: what it accepted and is not removed now, and what is new
        state = {name: kept for name, kept in subscription.kept.items() if name not in removed} | dict(given)
        return sotw_response(type_url, nonce, state.values(), sotw.version_over(state.values()))

    def _gone(self, type_url: str, subscription: Subscription) -> frozenset[str]:
        """Names that the client holds and that do not exist any more."""
        return frozenset(
            name
            for name in subscription.dirty
            if subscription.may_hold(name) and self._view.get(type_url, name) is None
        )

    def _flying(self, type_url: str) -> bool:
        subscription = self._types.get(type_url)
        return subscription is not None and bool(subscription.flights)

    def _unsettled(self, type_url: str) -> bool:
        """Whether the client may still use an older state of a type."""
        subscription = self._types.get(type_url)
        if subscription is None:
            return False
        return bool(subscription.flights or subscription.refused or self._gone(type_url, subscription))


def _any_names(type_url: str, old: View, new: View) -> set[str]:
    return {*old.names(type_url), *new.names(type_url)}
