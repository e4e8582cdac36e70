"""The delta (incremental) variant: subscriptions accumulate, responses hold only changes. Rules: docs/xds-rules.md."""

from __future__ import annotations

from collections.abc import Mapping

from xds.protocol.messages import XdsRequest
from xds.protocol.subscription import UNKNOWN, WILDCARD, Subscription
from xds.snapshot.order import WILDCARD_BY_DEFAULT
from xds.snapshot.snapshot import ProxyView


def subscribe(subscription: Subscription, request: XdsRequest, view: ProxyView, *, first: bool) -> bool:
    """Apply the names of a request, with any nonce (rules 20 and 21). Return True: it may always be answered."""
    if not (first or request.subscribe or request.unsubscribe):
        return True
    type_url = request.type_url
    legacy = first and not request.subscribe and type_url in WILDCARD_BY_DEFAULT  # rules 4 and 5
    if (WILDCARD in request.subscribe or legacy) and not subscription.wildcard:
        subscription.wildcard = True
        subscription.response_due = True
        subscription.dirty.update(view.names(type_url))
    subscription.add_names(name for name in request.subscribe if name != WILDCARD)
    if WILDCARD in request.unsubscribe:
        subscription.wildcard = False
        subscription.response_due = False
        subscription.forget_unsubscribed()
    subscription.remove_names(name for name in request.unsubscribe if name != WILDCARD)
    if first and request.initial_versions:
        _resume(subscription, request.initial_versions)
    return True


def _resume(subscription: Subscription, versions: Mapping[str, str]) -> None:
    """Take over the versions that the client holds from an earlier stream (rules 10, 26 and 27)."""
    for name, version in versions.items():
        if subscription.is_subscribed(name):
            subscription.client_versions[name] = version or UNKNOWN
            subscription.dirty.add(name)
            subscription.resend.discard(name)
    subscription.response_due = False
