"""One xDS stream as a state machine without I/O: requests and views in, actions out.

Both variants share it; what differs between them is in `delta` and `sotw`. Time is given, never asked for. The rules that
comments number are those of docs/xds-rules.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from itertools import count
from typing import NamedTuple, TypeAlias

from model.identity import Identity
from xds.protocol import delta, sotw
from xds.protocol.messages import (
    MAX_NAMES,
    Malformed,
    TooManyNames,
    Variant,
    XdsRequest,
    delta_response,
    parse,
    sotw_response,
    split,
)
from xds.protocol.subscription import ABSENT, InFlightResponse, Subscription, blamed
from xds.snapshot.order import ADDITIONS, FOLLOWED_BY, FULL_STATE, REMOVALS
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView

MAX_NODE_BYTES = 1024 * 1024
"""What a node may have; Envoy's own has some KiB, most of it the list of its extensions."""


class Send(NamedTuple):
    """Write these bytes to the client."""

    type_url: str
    nonce: str
    data: bytes


class Answered(NamedTuple):
    """The client accepted (`error` is None) or rejected a response made of the World at `revision`."""

    type_url: str
    given: Mapping[str, Resource]
    revision: int
    error: str | None
    at_fault: frozenset[str] = frozenset()
    """Names among `given` to which a rejection is laid."""


class Close(NamedTuple):
    """End the stream with this gRPC status."""

    status: str
    message: str


Action: TypeAlias = Send | Answered | Close


class Progress(StrEnum):
    """How far a resource has come on one stream."""

    HELD = "held"
    """The client accepted it as it is wanted."""
    SENT = "sent"
    """It is on its way: sent, and not answered."""
    WAITING = "waiting"
    """It will be sent when something else was answered, or when its grace is over."""
    REJECTED = "rejected"
    """The client refused this version."""
    WITHHELD = "withheld"
    """The client is given something else than what is wanted."""


class Holding(NamedTuple):
    """One name that a client asks for. Versions are None for what does not exist, or is not known to."""

    name: str
    wanted: str | None
    given: str | None
    """What the stream gives the client in place of what is wanted; the same, as a rule."""
    held: str | None
    """What the client accepted last; not known while something newer is on its way, and after a rejection."""
    progress: Progress


class XdsStream:
    """The server's side of one stream.

    `identity` is who the client is, from its certificate; `only` the type of a per-type service, None for ADS. `wake_at` is
    when `wake` wants to be called (the clock of the `now` arguments, seconds), None for never.
    """

    def __init__(
        self,
        variant: Variant,
        identity: Identity,
        view: ProxyView,
        *,
        only: str | None = None,
        removal_grace_s: float = 0,
    ) -> None:
        self.variant = variant
        self.identity = identity
        self.wake_at: float | None = None
        self._view = view
        self._only = only
        self._grace_s = removal_grace_s
        self._types: dict[str, Subscription] = {}
        self._owed: dict[str, set[str]] = {}
        """Names by type URL that are to be sent again because what uses them was (rule 33)."""
        self._nonces = (str(number) for number in count(1))

    def receive(self, raw: bytes, now: float) -> Sequence[Action]:
        """What to do about a request."""
        try:
            request = parse(self.variant, raw)
        except Malformed as error:
            return [Close("INVALID_ARGUMENT", f"not a discovery request: {error}")]
        except TooManyNames:
            return [_too_many_names()]
        if request.node_bytes > MAX_NODE_BYTES:
            return [Close("RESOURCE_EXHAUSTED", f"a node of {request.node_bytes} bytes: it may have {MAX_NODE_BYTES}")]
        if not request.type_url:
            if self._only is None:
                return [Close("INVALID_ARGUMENT", "type_url is missing, and an aggregated stream needs it")]  # rule 1
            request = request._replace(type_url=self._only)
        if self._only and request.type_url != self._only:
            return [Close("INVALID_ARGUMENT", f"this service streams {self._only} alone")]
        if request.type_url not in ADDITIONS:
            return []  # nothing of this type is served, so there is nothing to say about it
        return self._receive(request, now)

    def publish(self, view: ProxyView, changed: Mapping[str, AbstractSet[str]] | None, now: float) -> Sequence[Action]:
        """What to do about a new view; `changed` are the names by type URL that may differ, None for any."""
        old, self._view = self._view, view
        for type_url, subscription in self._types.items():
            if changed is None:
                subscription.touch(_any_names(type_url, old, view))
            elif type_url in changed:
                subscription.touch(changed[type_url])
        return self._advance(now)

    @property
    def waiting_since(self) -> float | None:
        """When the oldest response was sent that is not answered; None when all are."""
        sent = [flight.at for subscription in self._types.values() for flight in subscription.flights.values()]
        return min(sent, default=None)

    @property
    def subscriptions(self) -> KeysView[str]:
        """The types that the client asked for."""
        return self._types.keys()

    @property
    def revision(self) -> int:
        """Of the World that the client is given now."""
        return self._view.revision

    def is_busy(self, type_urls: Iterable[str]) -> bool:
        """Whether nothing of these types is sent before an answer to one of them comes, whatever changes."""
        return all(map(self._flying, type_urls))

    def is_settled(self, type_url: str) -> bool:
        """Whether the client holds all that it is given of a type, and accepted it."""
        subscription = self._types.get(type_url)
        return subscription is not None and not (
            subscription.flights or subscription.dirty or subscription.doubtful or subscription.answer_due
        )

    def stands(self, type_url: str, name: str, resource: Resource | None) -> bool | None:
        """Whether the client accepted this version of a resource (None: its end).

        None if it asks for others of the type; one that did not ask for the type may do so yet.
        """
        subscription = self._types.get(type_url)
        if subscription is None:
            return False
        if not subscription.wants(name):
            return None
        flying = any(name in flight.given or name in flight.removed for flight in subscription.flights.values())
        if flying or name in subscription.doubtful:
            return False
        return subscription.held.get(name, ABSENT) == (resource.version if resource else ABSENT)

    def holdings(self, type_url: str, wanted: ProxyView) -> Iterator[Holding]:
        """What the client has of each name of a type that it asks for or may hold, by name, beside what is `wanted`."""
        subscription = self._types.get(type_url)
        if subscription is None:
            return
        flying = {name for flight in subscription.flights.values() for name in (*flight.given, *flight.removed)}
        every = (*wanted.names(type_url), *self._view.names(type_url)) if subscription.wildcard else ()
        known = {*every, *subscription.names, *subscription.held, *subscription.doubtful}
        for name in sorted(known):
            meant, given = _version(wanted, type_url, name), _version(self._view, type_url, name)
            held = subscription.held.get(name) or None
            if name in flying:
                held, progress = None, Progress.SENT
            elif given in subscription.refused.get(name, ()):
                progress = Progress.REJECTED
            elif name in subscription.doubtful or held != given:
                progress = Progress.WAITING
            else:
                progress = Progress.HELD if given == meant else Progress.WITHHELD
            yield Holding(name, meant, given, held, progress)

    def wake(self, now: float) -> Sequence[Action]:
        """What to do when `wake_at` has come."""
        return self._advance(now)

    def _receive(self, request: XdsRequest, now: float) -> Sequence[Action]:
        first = request.type_url not in self._types
        if first:  # what it refers to is not known yet, so nothing is free before it is settled
            for other in self._types.values():
                other.free.clear()
        repeats = self.variant is Variant.SOTW and request.type_url in FULL_STATE
        subscription = self._types.setdefault(request.type_url, Subscription(repeats=repeats))
        actions = list(self._answers(subscription, request))
        variant = delta if self.variant is Variant.DELTA else sotw
        may_answer = variant.subscribe(subscription, request, self._view, first=first)
        if subscription.size > MAX_NAMES:
            return [*actions, _too_many_names()]
        return [*actions, *self._advance(now)] if may_answer else actions

    def _answers(self, subscription: Subscription, request: XdsRequest) -> Iterator[Action]:
        """The acknowledgement or rejection that a request carries; one with a stale or foreign nonce carries none."""
        # rule 3: a rejection is the presence of an error, never a comparison of versions
        if request.error is None:
            flight = subscription.accept(request.nonce)
        else:
            flight = subscription.reject(request.nonce, request.error)
        if flight is not None:
            at_fault = frozenset() if request.error is None else blamed(flight.given, request.error)
            yield Answered(request.type_url, flight.given, flight.revision, request.error, at_fault)

    def _advance(self, now: float) -> Sequence[Action]:
        """Send what may be sent: additions in their order, then removals; each gated as `snapshot.order` says."""
        actions: list[Action] = []
        self.wake_at = None
        due: set[str] = set()
        for type_url, after in ADDITIONS.items():
            subscription = self._types.get(type_url)
            if subscription is None:
                continue
            if type_url in self._owed:
                subscription.force(self._followers(type_url, subscription))
            if subscription.flights:
                continue  # one response at a time; while it is in flight it gates by itself
            if not (subscription.dirty or subscription.answer_due):
                continue
            if any(other in due or self._flying(other) for other in after):
                due.add(type_url)
                continue
            additions = self._additions(type_url, subscription)
            if additions or subscription.answer_due:
                actions += self._add(type_url, subscription, additions, now)
        for type_url, referrers in REMOVALS.items():
            subscription = self._types.get(type_url)
            if subscription is not None and (subscription.dirty or subscription.free):
                # its own additions go first: what takes the place of a listener must be there before that leaves
                settled = type_url not in due and not any(other in due or self._unsettled(other) for other in referrers)
                actions += self._remove(type_url, subscription, now, settled=settled)
        return actions

    def _followers(self, type_url: str, subscription: Subscription) -> Iterator[str]:
        """What there is of the names to be sent again because what uses them was (rule 33)."""
        for name in self._owed.pop(type_url, ()):
            if subscription.wants(name) and self._view.get(type_url, name) is not None:
                yield name

    def _additions(self, type_url: str, subscription: Subscription) -> dict[str, Resource | None]:
        """The names to answer, with what they are now; None for one that is asked for and does not exist (rule 25).

        Names for which the client needs nothing leave the dirty ones on the way; removals stay and wait for their turn.
        """
        additions: dict[str, Resource | None] = {}
        for name in [*subscription.dirty]:
            resource = self._view.get(type_url, name)
            held, forced = subscription.held.get(name), name in subscription.forced
            if resource is None:
                sayable = self.variant is Variant.DELTA
                if subscription.may_hold(name) and not (forced and sayable):
                    continue
                wanted = sayable and (forced or (name in subscription.names and held is None))
            elif held == resource.version and not forced:
                wanted = False
                subscription.doubtful.discard(name)  # what it should hold is again what it does
            elif subscription.has_refused(resource):
                wanted = False
                if subscription.may_hold(name) or name in subscription.left:  # another version, and keeps that
                    subscription.doubtful.add(name)
            else:
                wanted = True
            if wanted:
                additions[name] = resource
            else:
                subscription.dirty.discard(name)
                subscription.forced.discard(name)
        return additions

    def _add(
        self, type_url: str, subscription: Subscription, additions: dict[str, Resource | None], now: float
    ) -> Iterator[Action]:
        given = {name: resource for name, resource in additions.items() if resource is not None}
        missing = frozenset(name for name, resource in additions.items() if resource is None)
        if self.variant is Variant.SOTW and type_url not in FULL_STATE:
            # rule 31: as much as fits; the rest stays dirty, and its turn comes with the answer to this
            given = {resource.name: resource for resource in next(split(given.values(), ())).given}
        if type_url in FOLLOWED_BY:  # rule 33, also for a client that has yet to ask for what follows
            again = given.keys() | (subscription.kept.keys() - subscription.held.keys())
            self._owed.setdefault(FOLLOWED_BY[type_url], set()).update(again)
        yield from self._send(type_url, subscription, given, missing, now)

    def _remove(self, type_url: str, subscription: Subscription, now: float, *, settled: bool) -> Iterator[Action]:
        if subscription.flights:
            return
        gone, since = self._gone(type_url, subscription), subscription.free
        subscription.free = {name: since.get(name, now) for name in gone if settled or name in since}
        due_at = {name: at + self._grace_s for name, at in subscription.free.items()}
        removed = frozenset(name for name, at in due_at.items() if at <= now)
        later = [at for at in due_at.values() if at > now]
        if later:
            self.wake_at = min(later) if self.wake_at is None else min(*later, self.wake_at)
        if self.variant is Variant.SOTW and type_url not in FULL_STATE:
            for name in removed:  # rule 14: state of the world has no way to say it, and needs none
                subscription.lose(name)
                subscription.left.add(name)
        elif removed:
            self._owed.get(FOLLOWED_BY.get(type_url, ""), set()).difference_update(removed)
            yield from self._send(type_url, subscription, {}, removed, now)

    def _send(
        self,
        type_url: str,
        subscription: Subscription,
        given: Mapping[str, Resource],
        removed: frozenset[str],
        now: float,
    ) -> Iterator[Action]:
        revision = self._view.revision
        if self.variant is Variant.SOTW:
            nonce = next(self._nonces)
            subscription.take_off(nonce, InFlightResponse(given, removed, revision, now))
            yield Send(type_url, nonce, self._sotw_response(type_url, subscription, given, removed, nonce))
            return
        for part in split(given.values(), removed):
            nonce = next(self._nonces)
            flight = InFlightResponse({resource.name: resource for resource in part.given}, part.removed, revision, now)
            subscription.take_off(nonce, flight)
            yield Send(type_url, nonce, delta_response(type_url, nonce, part.given, part.removed, str(revision)))

    def _sotw_response(
        self,
        type_url: str,
        subscription: Subscription,
        given: Mapping[str, Resource],
        removed: frozenset[str],
        nonce: str,
    ) -> bytes:
        if type_url not in FULL_STATE:
            return sotw_response(type_url, nonce, given.values(), sotw.version_held(subscription))
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
        return bool(subscription.flights or subscription.doubtful or self._gone(type_url, subscription))


def _version(view: ProxyView, type_url: str, name: str) -> str | None:
    resource = view.get(type_url, name)
    return resource.version if resource else None


def _too_many_names() -> Close:
    return Close("RESOURCE_EXHAUSTED", f"more than {MAX_NAMES} names of one type")


def _any_names(type_url: str, old: ProxyView, new: ProxyView) -> set[str]:
    return {*old.names(type_url), *new.names(type_url)}
