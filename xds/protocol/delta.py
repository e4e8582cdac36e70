"""The incremental variant: subscriptions accumulate, responses hold what changed. Numbers name the rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from xds.protocol.messages import Request
from xds.protocol.subscription import WILDCARD, Subscription
from xds.snapshot.order import WILDCARD_BY_DEFAULT
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import View

MAX_RESPONSE_BYTES = 2 * 1024 * 1024
"""Where a response is split: half of what gRPC clients take by default (rule 31)."""


def subscribe(subscription: Subscription, request: Request, view: View, *, first: bool) -> bool:
    """Apply the names of a request, whatever its nonce (rules 20 and 21); it may always be answered."""
    type_url = request.type_url
    legacy = first and not request.subscribe and type_url in WILDCARD_BY_DEFAULT  # rules 4 and 5
    if (WILDCARD in request.subscribe or legacy) and not subscription.wildcard:
        subscription.wildcard = True
        subscription.answer_due = True
        subscription.dirty.update(view.names(type_url))
    subscription.add(name for name in request.subscribe if name != WILDCARD)  # rule 22: also one that is held
    if WILDCARD in request.unsubscribe:
        _drop_wildcard(subscription)
    subscription.drop(name for name in request.unsubscribe if name != WILDCARD)
    if first and request.initial_versions:
        _resume(subscription, request.initial_versions)
    return True


def _drop_wildcard(subscription: Subscription) -> None:
    subscription.wildcard = False
    subscription.answer_due = False
    for name in [*subscription.held, *subscription.dirty]:
        if name not in subscription.names:
            subscription.forget(name)


def _resume(subscription: Subscription, versions: Mapping[str, str]) -> None:
    """The client holds resources from an earlier stream: answer only what differs (rules 10, 26 and 27)."""
    for name, version in versions.items():
        if subscription.wants(name):
            subscription.held[name] = version
            subscription.dirty.add(name)
            subscription.forced.discard(name)
    subscription.answer_due = False


@dataclass(frozen=True, slots=True)
class Part:
    """One of the responses that a change is split into."""

    given: Sequence[Resource]
    removed: frozenset[str]


def split(given: Iterable[Resource], removed: frozenset[str]) -> Iterator[Part]:
    """Parts below the size limit that hold all of `given`; the removals ride on the last one."""
    batch: list[Resource] = []
    size = 0
    for resource in given:
        if batch and size + len(resource.delta_part) > MAX_RESPONSE_BYTES:
            yield Part(batch, frozenset())
            batch, size = [], 0
        batch.append(resource)
        size += len(resource.delta_part)
    yield Part(batch, removed)
