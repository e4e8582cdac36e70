"""A simulated gateway Envoy on delta ADS, without I/O: subscriptions, held resources and ACKs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final
from weakref import WeakValueDictionary

from xds.translate import names
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

WILDCARD: Final = (names.CLUSTER, names.LISTENER)
NAMED: Final = (names.ENDPOINT, names.ROUTE, names.EXTENSION)


@dataclass(frozen=True, slots=True, eq=False)
class ResponseView:
    """The parts of a response that a simulated proxy needs."""

    type_url: str
    nonce: str
    revision: int
    """The revision of its World."""
    resources: tuple[tuple[str, str], ...]
    """Name and version of each resource."""
    removed: tuple[str, ...]
    resource_bytes: int


@lru_cache(maxsize=64)  # a change reaches most proxies as the same bytes
def read(raw: bytes) -> ResponseView:
    """Parse a response; the bodies of its resources are only measured."""
    message = DeltaDiscoveryResponse.FromString(raw)
    return ResponseView(
        type_url=message.type_url,
        nonce=message.nonce,
        revision=int(message.system_version_info or 0),
        resources=tuple((resource.name, resource.version) for resource in message.resources),
        removed=tuple(message.removed_resources),
        resource_bytes=sum(resource.ByteSize() for resource in message.resources),
    )


@lru_cache(maxsize=4096)
def acknowledgement(type_url: str, nonce: str) -> bytes:
    return DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce).SerializeToString()


class HeldResources:
    """The versions by name that proxies hold of a type. Proxies that hold the same share one object."""

    def __init__(self, versions: Mapping[str, str]) -> None:
        self.versions = versions
        self._after: WeakValueDictionary[object, HeldResources] = WeakValueDictionary()

    def after(self, response: ResponseView) -> HeldResources:
        """Return the resources held after a response."""
        key = (response.resources, response.removed)
        found = self._after.get(key)
        if found is None:
            versions = {**self.versions, **dict(response.resources)}
            for name in response.removed:
                versions.pop(name, None)
            found = self._after[key] = HeldResources(versions)
        return found

    @cached_property
    def first_request(self) -> bytes:
        """The first request of a stream without its type; the held versions prevent that resources are sent again."""
        return DeltaDiscoveryRequest(initial_resource_versions=dict(self.versions)).SerializeToString()

    @cached_property
    def subscription(self) -> bytes:
        """A request that subscribes to the held resources by name."""
        return DeltaDiscoveryRequest(resource_names_subscribe=self.versions).SerializeToString()


_NOTHING: Final = HeldResources({})
_TYPES: Final = {
    type_url: DeltaDiscoveryRequest(type_url=type_url).SerializeToString() for type_url in (*WILDCARD, *NAMED)
}


class SimulatedProxy:
    """One proxy, which keeps its resources across streams, as Envoy does."""

    __slots__ = ("_asked", "_node", "held", "revision")

    def __init__(self, node_id: str) -> None:
        self.held = dict.fromkeys((*WILDCARD, *NAMED), _NOTHING)
        self.revision = 0
        """The newest revision whose endpoints it acknowledged."""
        id_ = node_id.encode()
        self._node = DeltaDiscoveryRequest(node=b"\x0a" + bytes([len(id_)]) + id_).SerializeToString()
        self._asked: set[str] = set()
        """The types with subscriptions by name on this stream."""

    def open(self) -> Iterator[bytes]:
        """Yield the first requests of a new stream; only the first has the node."""
        self._asked = {type_url for type_url in NAMED if self.held[type_url].versions}
        asked = (*WILDCARD, *(type_url for type_url in NAMED if type_url in self._asked))
        for type_url in asked:
            held = self.held[type_url]
            node = self._node if type_url is asked[0] else b""
            subscribed = held.subscription if type_url in NAMED else b""
            yield node + _TYPES[type_url] + subscribed + held.first_request  # protobuf messages concatenate

    def take(self, response: ResponseView) -> Iterator[bytes]:
        """Apply a response, and yield its ACK and the subscriptions to resources that it refers to."""
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
        """Return True if it holds these numbers of resources of each type."""
        return all(len(self.held[type_url].versions) == count for type_url, count in counts.items())


_NAMED_BY_LISTENER: Final = tuple(
    DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=[name]).SerializeToString()
    for type_url, name in ((names.EXTENSION, names.GROUPS_FILTER), (names.ROUTE, names.GATEWAY_ROUTES))
)


def _endpoints_of(before: HeldResources, response: ResponseView) -> Iterator[bytes]:
    """Subscribe to the endpoints of new clusters, and unsubscribe from those of removed ones."""
    added = tuple(name for name, _ in response.resources if name not in before.versions)
    if added or response.removed:
        yield _interest(added, response.removed)


@lru_cache(maxsize=64)
def _interest(added: tuple[str, ...], gone: tuple[str, ...]) -> bytes:
    return DeltaDiscoveryRequest(
        type_url=names.ENDPOINT, resource_names_subscribe=added, resource_names_unsubscribe=gone
    ).SerializeToString()
