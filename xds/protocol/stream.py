"""One xDS stream as a state machine without I/O: requests and views go in, actions come out.

Both variants share it; `delta` and `sotw` hold what differs. Callers pass the time in. Comments cite the rules of
docs/xds-rules.md by number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from functools import lru_cache
from itertools import count
from typing import NamedTuple, TypeAlias

from model.identity import Identity
from xds.protocol import delta, sotw
from xds.protocol.messages import (
    MAX_NAMES,
    MalformedRequest,
    TooManyNames,
    Variant,
    XdsRequest,
    delta_response,
    parse_request,
    sotw_response,
    split_response,
)
from xds.protocol.subscription import ABSENT, InFlightResponse, Subscription, find_at_fault
from xds.snapshot.order import ADDITIONS, AFTER_CLUSTERS, FOLLOWED_BY, FULL_STATE, REMOVALS, WARMING_S
from xds.snapshot.resource import Resource, make_resource
from xds.snapshot.snapshot import ProxyView
from xds.translate.encoding import encode
from xds.translate.endpoints import translate_no_endpoints
from xds.translate.names import CLUSTER, ENDPOINT, LISTENER

MAX_NODE_BYTES = 1024 * 1024
"""The largest node that is accepted. Envoy's own has some KiB, most of it the list of its extensions."""


FormerClusters: TypeAlias = Callable[[ProxyView, str], Iterable[Resource]]
"""Returns the clusters that a view lacks, but that a client may hold that states this version of an earlier full state."""


class Send(NamedTuple):
    """Write these bytes to the client."""

    type_url: str
    nonce: str
    data: bytes


class Answered(NamedTuple):
    """The client accepted (`error` is None) or rejected a response that was made from the World at `revision`."""

    type_url: str
    resources: Mapping[str, Resource]
    revision: int
    error: str | None
    at_fault: frozenset[str] = frozenset()
    """Names among `resources` that caused the rejection."""


class Close(NamedTuple):
    """End the stream with this gRPC status."""

    status: str
    message: str


Action: TypeAlias = Send | Answered | Close


class SyncState(StrEnum):
    """The state of a resource on one stream. The values are those of the field `status` in the REST API."""

    ACKNOWLEDGED = "accepted"
    """The client accepted the desired version."""
    IN_FLIGHT = "sent"
    """The version was sent and has no answer yet."""
    PENDING = "waiting"
    """The version, or the removal, is sent once another response is answered or a grace is over."""
    REJECTED = "rejected"
    """The client rejected this version (NACK)."""
    WITHHELD = "withheld"
    """The client is served another version than the desired one."""


class ResourceStatus(NamedTuple):
    """The status of one name that a client subscribes to. Versions are None if there is none, or it is unknown."""

    name: str
    desired: str | None
    served: str | None
    """The version that the stream serves; differs from `desired` only while a rollout withholds that."""
    acknowledged: str | None
    """The version that the client accepted last. Unknown while another one is in flight, and after a NACK."""
    state: SyncState


class XdsStream:
    """The server's side of one stream.

    `identity` is the client's identity from its certificate; `only` the type of a per-type service, None for ADS.
    `wake_at` is the time at which `wake` must be called (the clock of the `now` arguments, seconds), None for never.
    """

    def __init__(
        self,
        variant: Variant,
        identity: Identity,
        view: ProxyView,
        *,
        only: str | None = None,
        removal_grace_s: float = 0,
        former_clusters: FormerClusters = lambda _view, _version: (),
    ) -> None:
        self.variant = variant
        self.identity = identity
        self.wake_at: float | None = None
        self.expired_nonces = 0
        """Requests so far whose nonce is not that of a response in flight."""
        self._view = view
        self._only = only
        self._grace_s = removal_grace_s
        self._former_clusters = former_clusters
        self._subscriptions: dict[str, Subscription] = {}
        self._followers_due: dict[str, set[str]] = {}
        """Names by type URL to send again because a resource that uses them was sent (rule 33)."""
        self._without_endpoints: set[str] = set()
        """Clusters whose endpoints are served empty, because they do not exist (rule 17)."""
        self._began_at: float | None = None
        """Time of the first request."""
        self._resumed = False
        """True once the client has stated that it holds resources from an earlier stream."""
        self._expects_clusters = False
        """True while clusters may warm that the client holds from an earlier stream, so that it has not asked for them yet."""
        self._nonces = (str(number) for number in count(1))

    def receive(self, raw: bytes, now: float) -> Sequence[Action]:
        """Process a request, and return the actions that follow from it."""
        try:
            request = parse_request(self.variant, raw)
        except MalformedRequest as error:
            return [Close("INVALID_ARGUMENT", f"not a discovery request: {error}")]
        except TooManyNames:
            return [_too_many_names()]
        if request.node_bytes > MAX_NODE_BYTES:
            return [
                Close("RESOURCE_EXHAUSTED", f"the node has {request.node_bytes} bytes, the limit is {MAX_NODE_BYTES}")
            ]
        if not request.type_url:
            if self._only is None:
                return [Close("INVALID_ARGUMENT", "type_url is missing; an aggregated stream needs it")]  # rule 1
            request = request._replace(type_url=self._only)
        if self._only and request.type_url != self._only:
            return [Close("INVALID_ARGUMENT", f"this service serves only {self._only}")]
        if request.type_url not in ADDITIONS:
            return []  # rule 5: types that are not served get no answer
        return self._receive(request, now)

    def publish(self, view: ProxyView, changed: Mapping[str, AbstractSet[str]] | None, now: float) -> Sequence[Action]:
        """Take a new view, and return the actions that follow from it.

        `changed` holds the names by type URL that may differ; None if any may.
        """
        old, self._view = self._view, view
        for type_url, subscription in self._subscriptions.items():
            if changed is None:
                subscription.mark_dirty(_any_names(type_url, old, view))
            elif type_url in changed:
                subscription.mark_dirty(changed[type_url])
            if changed and type_url == ENDPOINT and CLUSTER in changed:
                subscription.mark_dirty(changed[CLUSTER])  # a cluster without endpoints has empty ones (rule 17)
        return self._advance(now)

    def accepted_elsewhere(self, type_url: str, names: Iterable[str], now: float) -> Sequence[Action]:
        """Return the actions that follow once the client answered resources of a type on another of its streams.

        Without that type on this stream, this one has their followers (rule 33).
        """
        if type_url in FOLLOWED_BY and type_url not in self._subscriptions:
            self._followers_due.setdefault(FOLLOWED_BY[type_url], set()).update(names)
        return self._advance(now)

    @property
    def unanswered_since(self) -> float | None:
        """Time at which the oldest response in flight was sent; None when nothing is in flight."""
        sent = [
            each.sent_at for subscription in self._subscriptions.values() for each in subscription.in_flight.values()
        ]
        return min(sent, default=None)

    @property
    def subscriptions(self) -> KeysView[str]:
        """The type URLs that the client subscribed to."""
        return self._subscriptions.keys()

    @property
    def revision(self) -> int:
        """Revision of the World that is served now."""
        return self._view.revision

    def is_blocked(self, type_urls: Iterable[str]) -> bool:
        """Return whether each of these types waits for an answer, so that no change of them can be sent now."""
        return all(map(self._is_in_flight, type_urls))

    def is_in_sync(self, type_url: str) -> bool:
        """Return whether the client accepted everything that is served of a type."""
        subscription = self._subscriptions.get(type_url)
        return subscription is not None and not (
            subscription.in_flight or subscription.dirty or subscription.uncertain or subscription.response_due
        )

    def has_accepted(self, type_url: str, name: str, resource: Resource | None) -> bool | None:
        """Return whether the client accepted this version of a resource; `resource` is None for its removal.

        Returns None if the client subscribes to the type but not to the name, and False if it does not subscribe to the
        type, because it may do so yet.
        """
        subscription = self._subscriptions.get(type_url)
        if subscription is None:
            return False
        if not subscription.is_subscribed(name):
            return None
        in_flight = any(name in each.resources or name in each.removed for each in subscription.in_flight.values())
        if in_flight or name in subscription.uncertain:
            return False
        return subscription.client_versions.get(name, ABSENT) == (resource.version if resource else ABSENT)

    def resource_statuses(self, type_url: str, desired: ProxyView) -> Iterator[ResourceStatus]:
        """Yield the status of each name of a type that the client subscribes to or may hold, sorted by name.

        `desired` is the view that the client should have, whatever it is served now.
        """
        subscription = self._subscriptions.get(type_url)
        if subscription is None:
            return
        in_flight = {name for each in subscription.in_flight.values() for name in (*each.resources, *each.removed)}
        existing = (*desired.names(type_url), *self._view.names(type_url)) if subscription.wildcard else ()
        known = {*existing, *subscription.names, *subscription.client_versions, *subscription.uncertain}
        for name in sorted(known):
            wanted, served = _version(desired, type_url, name), _version(self._view, type_url, name)
            acknowledged = subscription.client_versions.get(name) or None
            if name in in_flight:
                acknowledged, state = None, SyncState.IN_FLIGHT
            elif served in subscription.nacked.get(name, ()):
                state = SyncState.REJECTED
            elif name in subscription.uncertain or acknowledged != served:
                state = SyncState.PENDING
            else:
                state = SyncState.ACKNOWLEDGED if served == wanted else SyncState.WITHHELD
            yield ResourceStatus(name, wanted, served, acknowledged, state)

    def wake(self, now: float) -> Sequence[Action]:
        """Return the actions that are due once `wake_at` has come."""
        return self._advance(now)

    def _receive(self, request: XdsRequest, now: float) -> Sequence[Action]:
        first = request.type_url not in self._subscriptions
        if first:  # a new type may refer to anything, so no removal is due until its state is known
            for other in self._subscriptions.values():
                other.pending_removals.clear()
        full_state = self.variant is Variant.SOTW and request.type_url in FULL_STATE
        subscription = self._subscriptions.setdefault(request.type_url, Subscription(full_state=full_state))
        actions = list(self._read_answer(subscription, request))
        variant = delta if self.variant is Variant.DELTA else sotw
        may_answer = variant.subscribe(subscription, request, self._view, first=first)
        if subscription.size > MAX_NAMES:
            return [*actions, _too_many_names()]
        if first:
            self._resume(request, now)
        return [*actions, *self._advance(now)] if may_answer else actions

    def _resume(self, request: XdsRequest, now: float) -> None:
        """Note what the first request of a type says of earlier streams."""
        expected = self._expects_clusters
        self._began_at = now if self._began_at is None else self._began_at
        self._resumed |= bool(request.version or request.initial_versions)
        if self.variant is Variant.SOTW and request.type_url == CLUSTER and request.version:
            clusters = self._subscriptions[CLUSTER]
            if clusters.wildcard and clusters.response_due:  # of another version than the current full state (rule 14)
                clusters.add_former(self._former_clusters(self._view, request.version))
        self._expect_clusters(now)
        endpoints = self._subscriptions.get(ENDPOINT)
        if self._expects_clusters and endpoints and (request.type_url == ENDPOINT or not expected):
            # a cluster may warm until its endpoints arrive again, which the client states to hold (rule 33)
            stated = endpoints.client_versions.keys() - endpoints.unconfirmed
            self._followers_due.setdefault(ENDPOINT, set()).update(stated)
            endpoints.mark_dirty(endpoints.names)  # those that do not exist are empty from now on

    def _read_answer(self, subscription: Subscription, request: XdsRequest) -> Iterator[Action]:
        """Yield the ACK or NACK that a request carries. A request with a stale or foreign nonce carries none."""
        # rule 3: the presence of an error makes a NACK, never a comparison of versions
        if request.error is None:
            response = subscription.accept(request.nonce)
        else:
            response = subscription.reject(request.nonce, request.error)
        if response is None:
            self.expired_nonces += bool(request.nonce)
        else:
            at_fault = frozenset() if request.error is None else find_at_fault(response.resources, request.error)
            yield Answered(request.type_url, response.resources, response.revision, request.error, at_fault)

    def _advance(self, now: float) -> Sequence[Action]:
        """Send what may be sent: additions in their order, then removals, both gated by the tables of `snapshot.order`."""
        actions: list[Action] = []
        self.wake_at = None
        self._expect_clusters(now)
        self._remove_empty_endpoints()
        due: set[str] = set()
        for type_url in ADDITIONS:
            subscription = self._subscriptions.get(type_url)
            if subscription is None:
                continue
            if type_url in self._followers_due:
                subscription.mark_resend(self._take_followers(type_url, subscription))
            if subscription.in_flight:
                continue  # one response of a type at a time; while it is in flight it gates removals by itself
            if not (subscription.dirty or subscription.response_due):
                continue
            additions, waiting = self._collect_additions(type_url, subscription)
            if waiting:
                due.add(type_url)
                if subscription.full_state:
                    continue  # rule 14: the client would delete what the response leaves out
            if self._withholds_full_state(type_url):
                continue
            if additions or (subscription.response_due and not waiting):
                actions += self._send_additions(type_url, subscription, additions, now)
        for type_url, referrers in REMOVALS.items():
            subscription = self._subscriptions.get(type_url)
            if subscription is not None and (subscription.dirty or subscription.pending_removals):
                # additions of the type itself go first: the replacement of a listener must exist before the old one goes
                unreferenced = type_url not in due and not any(
                    other in due or self._may_hold_old(other) for other in referrers
                )
                actions += self._send_removals(type_url, subscription, now, unreferenced=unreferenced)
        return actions

    def _expect_clusters(self, now: float) -> None:
        """Note whether the client reconnected while a cluster warms: Envoy asks for clusters once it is warm (rule 32).

        Such a client asks for all listeners, and so for all clusters too unless it has them from elsewhere; then WARMING_S
        ends this. One that names its listeners, as gRPC does, is not waited for: it asks for the clusters that it finds in
        routes. A new client asks for clusters first.
        """
        listeners, began_at = self._subscriptions.get(LISTENER), self._began_at
        wants_all = self._only is None and self._resumed and listeners is not None and listeners.wildcard
        self._expects_clusters = False
        if wants_all and CLUSTER not in self._subscriptions and began_at is not None and now < began_at + WARMING_S:
            self._expects_clusters = True
            self.wake_at = began_at + WARMING_S

    def _waits(self, resource: Resource) -> bool:
        """Return whether a resource has to wait for clusters: those that it names, and a listener for those of its routes.

        Nothing waits for clusters that are not sent: those that the client does not subscribe to, that do not exist, that it
        rejected, or whose full state is withheld until the routes were accepted. The others are in flight, or about to be.
        """
        named = resource.clusters
        for each in resource.components:
            component = self._view.get(each.type_url, each.name)
            named = named | component.clusters if component else named
        clusters = self._subscriptions.get(CLUSTER)
        if clusters is None:
            return self._expects_clusters and bool(named)
        if self._withholds_full_state(CLUSTER):
            return False
        for name in clusters.not_held(named):
            cluster = self._view.get(CLUSTER, name) if clusters.is_subscribed(name) else None
            if cluster is not None and not clusters.has_nacked(cluster):
                return True
        return False

    def _get(self, type_url: str, name: str) -> Resource | None:
        """Return a resource as the client should have it.

        While a client may have a cluster whose endpoints do not exist, these are empty: their absence would leave it the
        ones that it has (rule 17).
        """
        resource = self._view.get(type_url, name)
        if resource is None and type_url == ENDPOINT and self._may_have_cluster(name):
            self._without_endpoints.add(name)
            return _no_endpoints(name)
        return resource

    def _may_have_cluster(self, name: str) -> bool:
        if self._view.get(CLUSTER, name) is not None:
            return True
        clusters = self._subscriptions.get(CLUSTER)
        return self._expects_clusters if clusters is None else clusters.may_hold(name)

    def _remove_empty_endpoints(self) -> None:
        """Mark the empty endpoints that may be removed, since their cluster was, or that exist again."""
        candidates, self._without_endpoints = self._without_endpoints, set()
        if candidates:
            exist = {name for name in candidates if self._get(ENDPOINT, name) is not None}
            self._subscriptions[ENDPOINT].mark_dirty(candidates - exist)

    def _take_followers(self, type_url: str, subscription: Subscription) -> Iterator[str]:
        """Yield the subscribed and existing names to send again because what uses them was sent (rule 33)."""
        for name in self._followers_due.pop(type_url, ()):
            if subscription.is_subscribed(name) and self._get(type_url, name) is not None:
                yield name

    def _collect_additions(self, type_url: str, subscription: Subscription) -> tuple[dict[str, Resource | None], bool]:
        """Return the names to send with their resources, and whether others wait for clusters.

        The resource is None for a subscribed name that does not exist (rule 25). Names that need no response are removed
        from `dirty`. Names that wait stay there, and names to remove for `_send_removals`.
        """
        additions: dict[str, Resource | None] = {}
        waiting = False
        for name in [*subscription.dirty]:
            resource = self._get(type_url, name)
            version, resend = subscription.client_versions.get(name), name in subscription.resend
            if resource is None:
                can_say_removed = self.variant is Variant.DELTA
                at_once = resend and can_say_removed and type_url not in FULL_STATE
                if self._needs_removal(type_url, subscription, name) and not at_once:
                    continue
                needed = can_say_removed and (resend or (name in subscription.names and version is None))
            elif version == resource.version and not resend:
                needed = False
                subscription.uncertain.discard(name)  # the client again holds what it should
            elif subscription.has_nacked(resource):
                needed = False
                if subscription.may_hold(name) or name in subscription.unsent_removals:  # it keeps another version
                    subscription.uncertain.add(name)
            elif type_url in AFTER_CLUSTERS and self._waits(resource):
                waiting = True
                continue
            else:
                needed = True
            if needed:
                additions[name] = resource
            else:
                subscription.dirty.discard(name)
                subscription.resend.discard(name)
        return additions, waiting

    def _send_additions(
        self,
        type_url: str,
        subscription: Subscription,
        additions: dict[str, Resource | None],
        now: float,
        removed: frozenset[str] = frozenset(),
    ) -> Iterator[Action]:
        resources = {name: resource for name, resource in additions.items() if resource is not None}
        missing = frozenset(name for name, resource in additions.items() if resource is None)
        if self.variant is Variant.SOTW and type_url not in FULL_STATE:
            # rule 31: send one part; the rest stays dirty and is sent after the answer
            part = next(split_response(resources.values(), ()))
            resources = {resource.name: resource for resource in part.resources}
        if type_url in FOLLOWED_BY:  # rule 33, also for a client that has not asked for the followers yet
            repeated = subscription.acknowledged.keys() - subscription.client_versions.keys()
            self._followers_due.setdefault(FOLLOWED_BY[type_url], set()).update(resources.keys() | repeated)
        yield from self._send(type_url, subscription, resources, missing | removed, now)

    def _send_removals(
        self, type_url: str, subscription: Subscription, now: float, *, unreferenced: bool
    ) -> Iterator[Action]:
        """Send the removals whose grace is over, and start the grace of resources that nothing refers to now."""
        if subscription.in_flight:
            return
        gone, since = self._gone(type_url, subscription), subscription.pending_removals
        subscription.pending_removals = {name: since.get(name, now) for name in gone if unreferenced or name in since}
        due_at = {name: at + self._grace_s for name, at in subscription.pending_removals.items()}
        removed = frozenset(
            name for name, at in due_at.items() if at <= now and (unreferenced or not subscription.is_untold(name))
        )
        later = [at for at in due_at.values() if at > now]
        if later:
            self.wake_at = min(later) if self.wake_at is None else min(*later, self.wake_at)
        if self.variant is Variant.SOTW and type_url not in FULL_STATE:
            for name in removed:  # rule 14: state of the world cannot express this removal, and need not
                subscription.forget_version(name)
                subscription.unsent_removals.add(name)
        elif removed:
            self._followers_due.get(FOLLOWED_BY.get(type_url, ""), set()).difference_update(removed)
            withheld, _ = self._collect_additions(type_url, subscription) if unreferenced else ({}, False)
            yield from self._send_additions(type_url, subscription, withheld, now, removed)

    def _send(
        self,
        type_url: str,
        subscription: Subscription,
        resources: Mapping[str, Resource],
        removed: frozenset[str],
        now: float,
    ) -> Iterator[Action]:
        revision = self._view.revision
        if self.variant is Variant.SOTW:
            nonce = next(self._nonces)
            subscription.record_sent(nonce, InFlightResponse(resources, removed, revision, now))
            yield Send(type_url, nonce, self._sotw_response(type_url, subscription, resources, removed, nonce))
            return
        for part in split_response(resources.values(), removed):
            nonce = next(self._nonces)
            named = {resource.name: resource for resource in part.resources}
            subscription.record_sent(nonce, InFlightResponse(named, part.removed, revision, now))
            yield Send(type_url, nonce, delta_response(type_url, nonce, part.resources, part.removed, str(revision)))

    def _sotw_response(
        self,
        type_url: str,
        subscription: Subscription,
        resources: Mapping[str, Resource],
        removed: frozenset[str],
        nonce: str,
    ) -> bytes:
        if type_url not in FULL_STATE:
            return sotw_response(type_url, nonce, resources.values(), sotw.hash_resources(resources.values()))
        # rule 14: the full state is the acknowledged resources without the removed ones, and the new ones
        kept = {name: resource for name, resource in subscription.acknowledged.items() if name not in removed}
        state = kept | dict(resources)
        return sotw_response(type_url, nonce, state.values(), sotw.hash_resources(state.values()))

    def _gone(self, type_url: str, subscription: Subscription) -> frozenset[str]:
        """Return the names that do not exist, and whose absence the client may have to be told like a removal."""
        return frozenset(
            name
            for name in subscription.dirty
            if self._needs_removal(type_url, subscription, name) and self._get(type_url, name) is None
        )

    def _withholds_full_state(self, type_url: str) -> bool:
        """Return whether a full state would say of a name that it does not exist, before nothing refers to it.

        `_send_removals` sends that state then.
        """
        subscription = self._subscriptions[type_url]
        if subscription.wildcard or not subscription.full_state:
            return False
        return any(map(subscription.is_untold, self._gone(type_url, subscription)))

    def _needs_removal(self, type_url: str, subscription: Subscription, name: str) -> bool:
        """Return whether the absence of a name is said like a removal: once nothing refers to it (rule 25)."""
        return subscription.may_hold(name) or (type_url in FULL_STATE and subscription.is_untold(name))

    def _is_in_flight(self, type_url: str) -> bool:
        subscription = self._subscriptions.get(type_url)
        return subscription is not None and bool(subscription.in_flight)

    def _may_hold_old(self, type_url: str) -> bool:
        """Return whether the client may still use older resources of a type."""
        subscription = self._subscriptions.get(type_url)
        if subscription is None:
            return False
        return bool(subscription.in_flight or subscription.uncertain or self._gone(type_url, subscription))


def _version(view: ProxyView, type_url: str, name: str) -> str | None:
    resource = view.get(type_url, name)
    return resource.version if resource else None


@lru_cache(maxsize=1_000)
def _no_endpoints(cluster_name: str) -> Resource:
    return make_resource(ENDPOINT, cluster_name, encode(translate_no_endpoints(cluster_name)))


def _too_many_names() -> Close:
    return Close("RESOURCE_EXHAUSTED", f"more than {MAX_NAMES} names of one type")


def _any_names(type_url: str, old: ProxyView, new: ProxyView) -> set[str]:
    return {*old.names(type_url), *new.names(type_url)}
