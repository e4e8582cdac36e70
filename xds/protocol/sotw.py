"""The state-of-the-world variant: a request holds all names, a response has one version. Rules: docs/xds-rules.md."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from xds.protocol.messages import XdsRequest
from xds.protocol.subscription import ABSENT, WILDCARD, Subscription
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
    if gained - subscription.client_versions.keys() and type_url in FULL_STATE:
        subscription.response_due = True  # a full state without the name says that it does not exist
    if first and request.version and request.version == _current_version(type_url, subscription, view):
        _resume(type_url, subscription, view)
    return first or not request.nonce or request.nonce == subscription.last_nonce


def _resume(type_url: str, subscription: Subscription, view: ProxyView) -> None:
    """Count everything as acknowledged: the client's version covers names and contents (rules 10 and 16)."""
    for name in subscription.dirty:
        resource = view.get(type_url, name)
        if resource is not None:
            subscription.client_versions[name] = resource.version
            if subscription.full_state:
                subscription.acknowledged[name] = resource
    subscription.dirty.clear()
    subscription.response_due = False


def _current_version(type_url: str, subscription: Subscription, view: ProxyView) -> str:
    """Return the version of all subscribed resources as they are in the view."""
    names = {*subscription.names, *(view.names(type_url) if subscription.wildcard else ())}
    return hash_resources(resource for name in names if (resource := view.get(type_url, name)))


def hash_resources(resources: Iterable[Resource]) -> str:
    """Return one version for these resources together."""
    return _hash((resource.name, resource.version) for resource in resources)


def hash_client_state(subscription: Subscription) -> str:
    """Return the version of what the client holds once it accepts what is in flight.

    It does not cover names that the client rejected or was not sent (rule 16).
    """
    return _hash((name, version) for name, version in subscription.client_versions.items() if version != ABSENT)


def _hash(versions: Iterable[tuple[str, str]]) -> str:
    """Hash names and content versions; the result is equal on every replica.

    See docs/architecture.md#versions-are-content-hashes.
    """
    lines = sorted(f"{name}\0{version}\n" for name, version in versions)
    return blake2b("".join(lines).encode(), digest_size=12).hexdigest()
