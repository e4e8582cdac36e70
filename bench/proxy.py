"""A gateway Envoy on delta ADS, as the control plane sees it: what it asks for, holds and acknowledges. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final
from weakref import WeakValueDictionary

from xds.translate import names
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node

WILDCARD: Final = (names.CLUSTER, names.LISTENER)
NAMED: Final = (names.ENDPOINT, names.ROUTE, names.EXTENSION)


@dataclass(frozen=True, slots=True, eq=False)
class ResponseView:
    """What a proxy needs to know of a response."""

    type_url: str
    nonce: str
    revision: int
    """Of the World that it was made of."""
    given: tuple[tuple[str, str], ...]
    """Name and version of each resource."""
    removed: tuple[str, ...]
    resource_bytes: int


@lru_cache(maxsize=64)  # a change reaches most proxies as the same bytes
def read(raw: bytes) -> ResponseView:
    """Read a response; the bodies of its resources are only measured."""
    message = DeltaDiscoveryResponse.FromString(raw)
    return ResponseView(
        type_url=message.type_url,
        nonce=message.nonce,
        revision=int(message.system_version_info or 0),
        given=tuple((resource.name, resource.version) for resource in message.resources),
        removed=tuple(message.removed_resources),
        resource_bytes=sum(resource.ByteSize() for resource in message.resources),
    )


@lru_cache(maxsize=4096)
def acknowledgement(type_url: str, nonce: str) -> bytes:
    return DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce).SerializeToString()


class HeldResources:
    """What proxies hold of a type: version by name. One object for all who hold the same."""

    def __init__(self, versions: Mapping[str, str]) -> None:
        self.versions = versions
        self._after: WeakValueDictionary[object, HeldResources] = WeakValueDictionary()

    def after(self, response: ResponseView) -> HeldResources:
        """What is held once a response was taken."""
        key = (response.given, response.removed)
        found = self._after.get(key)
        if found is None:
            versions = {**self.versions, **dict(response.given)}
            for name in response.removed:
                versions.pop(name, None)
            found = self._after[key] = HeldResources(versions)
        return found

    @cached_property
    def first_request(self) -> bytes:
        """The first request of a stream, but for its type; by what it says is held nothing is sent again."""
        return DeltaDiscoveryRequest(initial_resource_versions=dict(self.versions)).SerializeToString()

    @cached_property
    def subscription(self) -> bytes:
        """The names of all that is held, as what is subscribed to by name."""
        return DeltaDiscoveryRequest(resource_names_subscribe=self.versions).SerializeToString()


_NOTHING: Final = HeldResources({})
_TYPES: Final = {
    type_url: DeltaDiscoveryRequest(type_url=type_url).SerializeToString() for type_url in (*WILDCARD, *NAMED)
}


class SimulatedProxy:
    """One proxy. It keeps what it holds across streams, as Envoy does."""

    __slots__ = ("_asked", "_node", "held", "revision")

    def __init__(self, node_id: str) -> None:
        self.held = dict.fromkeys((*WILDCARD, *NAMED), _NOTHING)
        self.revision = 0
        """The newest revision of which it acknowledged endpoints."""
        self._node = DeltaDiscoveryRequest(node=Node(id=node_id)).SerializeToString()
        self._asked: set[str] = set()
        """Types asked for by name on this stream."""

    def open(self) -> Iterator[bytes]:
        """The requests that a new stream begins with; only the first says who asks."""
        self._asked = {type_url for type_url in NAMED if self.held[type_url].versions}
        asked = (*WILDCARD, *(type_url for type_url in NAMED if type_url in self._asked))
        for type_url in asked:
            held = self.held[type_url]
            node = self._node if type_url is asked[0] else b""
            subscribed = held.subscription if type_url in NAMED else b""
            yield node + _TYPES[type_url] + subscribed + held.first_request  # protobuf messages concatenate

    def take(self, response: ResponseView) -> Iterator[bytes]:
        """Take a response: its acknowledgement, and requests for what it refers to."""
        type_url = response.type_url
        before = self.held[type_url]
        self.held[type_url] = before.after(response)
        yield acknowledgement(type_url, response.nonce)
        if type_url == names.ENDPOINT:
            self.revision = max(self.revision, response.revision)
        elif type_url == names.CLUSTER:
            yield from _endpoints_of(before, response)
        elif type_url == names.LISTENER and names.ROUTE not in self._asked:
            self._asked |= {names.ROUTE, names.EXTENSION}
            yield from _NAMED_BY_LISTENER

    def holds(self, counts: Mapping[str, int]) -> bool:
        """Whether it holds so many resources of each type."""
        return all(len(self.held[type_url].versions) == count for type_url, count in counts.items())


_NAMED_BY_LISTENER: Final = tuple(
    DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=[name]).SerializeToString()
    for type_url, name in ((names.EXTENSION, names.GROUPS_FILTER), (names.ROUTE, names.GATEWAY_ROUTES))
)


def _endpoints_of(before: HeldResources, response: ResponseView) -> Iterator[bytes]:
    """Ask for the endpoints of clusters that are new, and no more for those of clusters that are gone."""
    added = tuple(name for name, _ in response.given if name not in before.versions)
    if added or response.removed:
        yield _interest(added, response.removed)


@lru_cache(maxsize=64)
def _interest(added: tuple[str, ...], gone: tuple[str, ...]) -> bytes:
    return DeltaDiscoveryRequest(
        type_url=names.ENDPOINT, resource_names_subscribe=added, resource_names_unsubscribe=gone
    ).SerializeToString()
