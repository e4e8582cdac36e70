"""The incremental variant: subscriptions accumulate, responses hold what changed. Numbers name the rules."""

from __future__ import annotations

from collections.abc import Mapping

from xds.protocol.messages import XdsRequest
from xds.protocol.subscription import UNKNOWN, WILDCARD, Subscription
from xds.snapshot.order import WILDCARD_BY_DEFAULT
from xds.snapshot.snapshot import ProxyView


def subscribe(subscription: Subscription, request: XdsRequest, view: ProxyView, *, first: bool) -> bool:
    """Apply the names of a request, whatever its nonce (rules 20 and 21); it may always be answered."""
    if not (first or request.subscribe or request.unsubscribe):
        return True
    type_url = request.type_url
    legacy = first and not request.subscribe and type_url in WILDCARD_BY_DEFAULT  # rules 4 and 5
    if (WILDCARD in request.subscribe or legacy) and not subscription.wildcard:
        subscription.wildcard = True
        subscription.answer_due = True
        subscription.dirty.update(view.names(type_url))
    subscription.add(name for name in request.subscribe if name != WILDCARD)
    if WILDCARD in request.unsubscribe:
        subscription.wildcard = False
        subscription.answer_due = False
        subscription.narrow()
    subscription.drop(name for name in request.unsubscribe if name != WILDCARD)
    if first and request.initial_versions:
        _resume(subscription, request.initial_versions)
    return True


def _resume(subscription: Subscription, versions: Mapping[str, str]) -> None:
    """The client holds resources from an earlier stream: answer only what differs (rules 10, 26 and 27)."""
    for name, version in versions.items():
        if subscription.wants(name):
            subscription.held[name] = version or UNKNOWN
            subscription.dirty.add(name)
            subscription.forced.discard(name)
    subscription.answer_due = False
