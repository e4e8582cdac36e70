"""The state-of-the-world variant: every request holds all names, every response one version. Numbers name the rules."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from xds.protocol.messages import XdsRequest
from xds.protocol.subscription import ABSENT, WILDCARD, Subscription
from xds.snapshot.order import FULL_STATE, WILDCARD_BY_DEFAULT
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView


def subscribe(subscription: Subscription, request: XdsRequest, view: ProxyView, *, first: bool) -> bool:
    """Apply the names of a request; says whether it may be answered (one with a stale nonce may not: rule 15)."""
    type_url = request.type_url
    names = {name for name in request.subscribe if name != WILDCARD}
    subscription.explicit |= bool(request.subscribe)
    # rule 4: no names means all only while nothing was ever asked for; later it means none
    legacy = not subscription.explicit and type_url in WILDCARD_BY_DEFAULT
    wildcard = legacy or WILDCARD in request.subscribe
    gained = names - subscription.names
    widened = wildcard and not subscription.wildcard
    narrowed = not wildcard and (subscription.wildcard or not subscription.names <= names)
    subscription.wildcard, subscription.names = wildcard, names
    subscription.dirty |= gained  # rule 11: answered even at the same version
    if widened:
        subscription.dirty.update(view.names(type_url))
        subscription.answer_due = True  # rule 26
    if narrowed:
        subscription.narrow()
        subscription.answer_due = type_url in FULL_STATE  # rule 12
    if gained - subscription.held.keys() and type_url in FULL_STATE:
        subscription.answer_due = True  # a state without the name says that it does not exist
    if first and request.version and request.version == _version_of(type_url, subscription, view):
        _resume(type_url, subscription, view)
    return first or not request.nonce or request.nonce == subscription.last_nonce


def _resume(type_url: str, subscription: Subscription, view: ProxyView) -> None:
    """The client's version covers names and contents: it holds it all (rules 10 and 16)."""
    for name in subscription.dirty:
        resource = view.get(type_url, name)
        if resource is not None:
            subscription.held[name] = resource.version
            if subscription.repeats:
                subscription.kept[name] = resource
    subscription.dirty.clear()
    subscription.answer_due = False


def _version_of(type_url: str, subscription: Subscription, view: ProxyView) -> str:
    """The version of all that is subscribed to, as it is now."""
    names = {*subscription.names, *(view.names(type_url) if subscription.wildcard else ())}
    return version_over(resource for name in names if (resource := view.get(type_url, name)))


def version_over(resources: Iterable[Resource]) -> str:
    """The version of these resources together."""
    return _hash((resource.name, resource.version) for resource in resources)


def version_held(subscription: Subscription) -> str:
    """The version of what the client holds once it accepts: of no name that it was not sent, or rejected (rule 16)."""
    return _hash((name, version) for name, version in subscription.held.items() if version != ABSENT)


def _hash(versions: Iterable[tuple[str, str]]) -> str:
    """A hash over names and content versions, equal on every replica.

    See docs/architecture.md#versions-are-content-hashes.
    """
    lines = sorted(f"{name}\0{version}\n" for name, version in versions)
    return blake2b("".join(lines).encode(), digest_size=12).hexdigest()
