"""Parsing and encoding of discovery messages: both variants of the protocol share one request and one response."""

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
"""Size at which a response is split: half of what gRPC clients accept by default (rule 31)."""
MAX_ERROR_CHARS: Final = 16_384
MAX_NAMES: Final = 200_000
"""The most names of one type that the server remembers for one stream."""
_ENVELOPE_BYTES: Final = 160
"""An upper bound of what type URL, version and lengths add to a resource, or a length to a name."""


class Variant(Enum):
    """A variant of the protocol: state of the world sends everything each time, delta sends what changed."""

    SOTW = "sotw"
    DELTA = "delta"


class MalformedRequest(ValueError):
    """The bytes cannot be parsed as a request of this variant."""


class TooManyNames(ValueError):
    """A request has more than MAX_NAMES names. They were counted, but not converted to strings."""


class XdsRequest(NamedTuple):
    """A request of either variant."""

    type_url: str
    nonce: str
    error: str | None
    """Envoy's error message when it rejects a response, cut to MAX_ERROR_CHARS; None when the request is no NACK."""
    node_bytes: int
    """Size of the encoded node in the request."""
    subscribe: Sequence[str] = ()
    """Delta: names to add. State of the world: all names."""
    unsubscribe: Sequence[str] = ()
    version: str = ""
    """State of the world: the version that the client accepted last."""
    initial_versions: Mapping[str, str] | None = None
    """Delta: versions by name of the resources that the client holds from an earlier stream."""


def parse_request(variant: Variant, raw: bytes) -> XdsRequest:
    """Parse a request. Raises MalformedRequest, or TooManyNames."""
    try:
        return _parse_delta(raw) if variant is Variant.DELTA else _parse_sotw(raw)
    except (DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequest(str(error)) from error


def _parse_delta(raw: bytes) -> XdsRequest:
    message = DeltaDiscoveryRequest.FromString(raw)
    _check_count(
        message.resource_names_subscribe, message.resource_names_unsubscribe, message.initial_resource_versions
    )
    return XdsRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=_error_of(message),
        node_bytes=len(message.node),
        subscribe=list(message.resource_names_subscribe),
        unsubscribe=list(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
    )


def _parse_sotw(raw: bytes) -> XdsRequest:
    message = DiscoveryRequest.FromString(raw)
    _check_count(message.resource_names)
    return XdsRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=_error_of(message),
        node_bytes=len(message.node),
        subscribe=list(message.resource_names),
        version=message.version_info,
    )


def _error_of(message: DeltaDiscoveryRequest | DiscoveryRequest) -> str | None:
    """Return the error of a NACK. Envoy cuts it at a number of bytes, so that it may end inside a character."""
    if not message.HasField("error_detail"):
        return None
    return message.error_detail.message.decode(errors="replace")[:MAX_ERROR_CHARS]


def _check_count(*tables: Sized) -> None:
    if max(map(len, tables)) > MAX_NAMES:  # converting names to strings costs far more than parsing them
        raise TooManyNames


def delta_response(
    type_url: str, nonce: str, resources: Iterable[Resource], removed: Iterable[str], system_version: str
) -> bytes:
    """Encode a delta response from parts that are already encoded: concatenated protobuf messages merge."""
    envelope = DeltaDiscoveryResponse(
        type_url=type_url, nonce=nonce, removed_resources=sorted(removed), system_version_info=system_version
    )
    return b"".join([*(resource.delta_part for resource in resources), envelope.SerializeToString()])


def sotw_response(type_url: str, nonce: str, resources: Iterable[Resource], version: str) -> bytes:
    """Encode a state-of-the-world response from parts that are already encoded."""
    envelope = DiscoveryResponse(type_url=type_url, nonce=nonce, version_info=version)
    return b"".join([*(resource.sotw_part for resource in resources), envelope.SerializeToString()])


class ResponsePart(NamedTuple):
    """One of the responses that a large change is split into."""

    resources: Sequence[Resource]
    removed: frozenset[str]


def split_response(resources: Iterable[Resource], removed: Iterable[str]) -> Iterator[ResponsePart]:
    """Split resources and removals into parts below MAX_RESPONSE_BYTES.

    Yields at least one part. A resource that is larger than the limit gets a part of its own.
    """
    part: list[Resource] = []
    names: list[str] = []
    size = 0
    items: Iterable[Resource | str] = (*resources, *removed)
    for item in items:
        more = _size(item)
        if size and size + more > MAX_RESPONSE_BYTES:
            yield ResponsePart(part, frozenset(names))
            part, names, size = [], [], 0
        if isinstance(item, Resource):
            part.append(item)
        else:
            names.append(item)
        size += more
    yield ResponsePart(part, frozenset(names))


def _size(item: Resource | str) -> int:
    return (item.size if isinstance(item, Resource) else len(item.encode())) + _ENVELOPE_BYTES
