"""The state-of-the-world variant: every request holds all names, every response one version. Numbers name the rules."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from xds.protocol.messages import Request
from xds.protocol.subscription import WILDCARD, Subscription
from xds.snapshot.order import FULL_STATE, WILDCARD_BY_DEFAULT
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import View


def subscribe(subscription: Subscription, request: Request, view: View, *, first: bool) -> bool:
    """Apply the names of a request; says whether it may be answered (one with a stale nonce may not: rule 15)."""
    type_url = request.type_url
    names = {name for name in request.subscribe if name != WILDCARD}
    # rule 4: no names means all only while none was ever sent; later it means none
    legacy = not request.subscribe and not subscription.names and type_url in WILDCARD_BY_DEFAULT
    wildcard = WILDCARD in request.subscribe or (legacy and (first or subscription.wildcard))
    gained = names - subscription.names
    lost = (subscription.names | set(subscription.held)) - names
    newly_wildcard = wildcard and not subscription.wildcard
    subscription.wildcard, subscription.names = wildcard, names
    subscription.dirty |= gained  # rule 11: answered even at the same version
    if newly_wildcard:
        subscription.dirty.update(view.names(type_url))
        subscription.answer_due = True
    if lost and not wildcard:
        for name in lost:
            subscription.forget(name)  # rules 13 and 19: sent again if asked for again, and not before
        subscription.answer_due = type_url in FULL_STATE  # rule 12
    if first and request.version and request.version == version_of(type_url, subscription, view):
        _resume(type_url, subscription, view)
    return first or not request.nonce or request.nonce == subscription.last_nonce


def _resume(type_url: str, subscription: Subscription, view: View) -> None:
    """The client's version covers names and contents: it holds it all (rules 10 and 16)."""
    for name in subscription.dirty:
        resource = view.get(type_url, name)
        if resource is not None:
            subscription.held[name] = resource.version
            if subscription.repeats:
                subscription.kept[name] = resource
    subscription.dirty.clear()
    subscription.answer_due = False


def version_of(type_url: str, subscription: Subscription, view: View) -> str:
    """The version of all that is subscribed to: a hash over names and content versions (decision 1)."""
    names = {*subscription.names, *(view.names(type_url) if subscription.wildcard else ())}
    return version_over(resource for name in names if (resource := view.get(type_url, name)))


def version_over(resources: Iterable[Resource]) -> str:
    """The version of these resources together."""
    lines = sorted(f"{resource.name}\0{resource.version}\n" for resource in resources)
    return blake2b("".join(lines).encode(), digest_size=12).hexdigest()
