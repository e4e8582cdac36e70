"""The two variants of the protocol on the wire, reduced to one request and one response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from enum import Enum
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from xds.snapshot.resource import Resource
from xds.wire.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

MAX_RESPONSE_BYTES: Final = 2 * 1024 * 1024
"""Where a response is split: half of what gRPC clients take by default (rule 31)."""
MAX_ERROR_CHARS: Final = 16_384
MAX_NAMES: Final = 200_000
"""Names of one type that one stream may make the server remember."""
_ENVELOPE_BYTES: Final = 160
"""More than type URL, version and lengths add to a resource, or a length to a name."""


class Variant(Enum):
    """How a stream speaks: the whole state each time, or what changed."""

    SOTW = "sotw"
    DELTA = "delta"


class Malformed(ValueError):
    """The bytes are no request of this variant."""


class TooManyNames(ValueError):
    """A request has more than MAX_NAMES; they were counted, and not read."""


class XdsRequest(NamedTuple):
    """A request of either variant."""

    type_url: str
    nonce: str
    error: str | None
    """Envoy's own words when it rejects, cut to MAX_ERROR_CHARS; None when it does not."""
    node_bytes: int
    """How large the node is that came with it."""
    subscribe: Sequence[str] = ()
    """Delta: names to add. State of the world: all names."""
    unsubscribe: Sequence[str] = ()
    version: str = ""
    """State of the world: the version that the client accepted last."""
    initial_versions: Mapping[str, str] | None = None
    """Delta: version by name of what the client holds from an earlier stream."""


def parse(variant: Variant, raw: bytes) -> XdsRequest:
    """Read a request. Raises Malformed, or TooManyNames."""
    try:
        return _parse_delta(raw) if variant is Variant.DELTA else _parse_sotw(raw)
    except (DecodeError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error


def _parse_delta(raw: bytes) -> XdsRequest:
    message = DeltaDiscoveryRequest.FromString(raw)
    _count(message.resource_names_subscribe, message.resource_names_unsubscribe, message.initial_resource_versions)
    return XdsRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message[:MAX_ERROR_CHARS] if message.HasField("error_detail") else None,
        node_bytes=message.node.ByteSize() if message.HasField("node") else 0,
        subscribe=list(message.resource_names_subscribe),
        unsubscribe=list(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
    )


def _parse_sotw(raw: bytes) -> XdsRequest:
    message = DiscoveryRequest.FromString(raw)
    _count(message.resource_names)
    return XdsRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message[:MAX_ERROR_CHARS] if message.HasField("error_detail") else None,
        node_bytes=message.node.ByteSize() if message.HasField("node") else 0,
        subscribe=list(message.resource_names),
        version=message.version_info,
    )


def _count(*tables: Sized) -> None:
    if max(map(len, tables)) > MAX_NAMES:  # to make strings of them costs far more than to have them parsed
        raise TooManyNames


def delta_response(
    type_url: str, nonce: str, resources: Iterable[Resource], removed: Iterable[str], system_version: str
) -> bytes:
    """A response from parts that are already encoded: protobuf messages concatenate."""
    envelope = DeltaDiscoveryResponse(
        type_url=type_url, nonce=nonce, removed_resources=sorted(removed), system_version_info=system_version
    )
    return b"".join([*(resource.delta_part for resource in resources), envelope.SerializeToString()])


def sotw_response(type_url: str, nonce: str, resources: Iterable[Resource], version: str) -> bytes:
    """A state-of-the-world response, likewise."""
    envelope = DiscoveryResponse(type_url=type_url, nonce=nonce, version_info=version)
    return b"".join([*(resource.sotw_part for resource in resources), envelope.SerializeToString()])


class ResponsePart(NamedTuple):
    """One of the responses that a change is split into."""

    given: Sequence[Resource]
    removed: frozenset[str]


def split(given: Iterable[Resource], removed: Iterable[str]) -> Iterator[ResponsePart]:
    """Parts below the size limit that hold it all: at least one, and one for each resource that is larger by itself."""
    resources: list[Resource] = []
    names: list[str] = []
    size = 0
    items: Iterable[Resource | str] = (*given, *removed)
    for item in items:
        more = _size(item)
        if size and size + more > MAX_RESPONSE_BYTES:
            yield ResponsePart(resources, frozenset(names))
            resources, names, size = [], [], 0
        if isinstance(item, Resource):
            resources.append(item)
        else:
            names.append(item)
        size += more
    yield ResponsePart(resources, frozenset(names))


def _size(item: Resource | str) -> int:
    return (item.size if isinstance(item, Resource) else len(item.encode())) + _ENVELOPE_BYTES
