"""The state-of-the-world variant: a request holds all names, a response has one version. Rules: docs/xds-rules.md."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from xds.protocol.messages import XdsRequest
from xds.protocol.subscription import WILDCARD, Subscription
from xds.snapshot.order import FULL_STATE, WILDCARD_BY_DEFAULT
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView


def subscribe(subscription: Subscription, request: XdsRequest, view: ProxyView, *, first: bool) -> bool:
    """Apply the names of a request. Return False if it has a stale nonce and must not be answered (rule 15)."""
    type_url = request.type_url
    names = {name for name in request.subscribe if name != WILDCARD}
    subscription.explicit |= bool(request.subscribe)
    # rule 4: no names means all names until the client has named one; from then on it means none
    legacy = not subscription.explicit and type_url in WILDCARD_BY_DEFAULT
    wildcard = legacy or WILDCARD in request.subscribe
    gained = names - subscription.names
    widened = wildcard and not subscription.wildcard
    narrowed = not wildcard and (subscription.wildcard or not subscription.names <= names)
    subscription.wildcard, subscription.names = wildcard, names
    subscription.dirty |= gained  # rule 11: answered even at the same version
    if widened:
        subscription.dirty.update(view.names(type_url))
        subscription.response_due = True  # rule 26
    if narrowed:
        subscription.forget_unsubscribed()
        subscription.response_due = type_url in FULL_STATE  # rule 12
    if wildcard and gained - subscription.client_versions.keys() and type_url in FULL_STATE:
        subscription.response_due = True  # a full state without the name says that it does not exist
    if first and wildcard and type_url in FULL_STATE:
        _resume(subscription, request, view)
    return first or not request.nonce or request.nonce == subscription.last_nonce


def _resume(subscription: Subscription, request: XdsRequest, view: ProxyView) -> None:
    """Count everything as acknowledged if a client of all names states the version of the current full state (rule 10).

    No version is evidence for resources by name: a client keeps it while it drops names, and their resources (rule 16).
    """
    type_url = request.type_url
    current = [resource for name in view.names(type_url) if (resource := view.get(type_url, name))]
    if request.version != hash_resources(current):
        return
    for resource in current:
        subscription.client_versions[resource.name] = resource.version
        subscription.acknowledged[resource.name] = resource
    subscription.dirty.clear()
    subscription.response_due = False


def hash_resources(resources: Iterable[Resource]) -> str:
    """Hash names and content versions; the result is equal on every replica.

    See docs/architecture.md#versions-are-content-hashes.
    """
    lines = sorted(f"{resource.name}\0{resource.version}\n" for resource in resources)
    return blake2b("".join(lines).encode(), digest_size=12).hexdigest()
