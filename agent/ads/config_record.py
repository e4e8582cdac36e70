"""What an Envoy was last given and accepted, learnt by reading along what the agent relays to it. No I/O.

A `AckTracker` reads along one stream; the `ConfigRecord` is what all of them have seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from xds.snapshot.order import WILDCARD_BY_DEFAULT
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryResponse, Resource

WILDCARD: Final = "*"
_UNKNOWN_VERSION: Final = ""
"""Tells the control plane that Envoy holds a resource, and not which: it sends it again, or says that it is gone."""


class AcceptedResource(NamedTuple):
    """A resource as Envoy accepted it: its version and the value of its Any."""

    version: str
    body: bytes


class ConfigRecord:
    """The accepted resources by type URL and name. A type that was answered with nothing is there, and empty."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._seen = asyncio.Event()
        self.revision = 0
        self._types: dict[str, dict[str, AcceptedResource]] = {}

    @property
    def seen(self) -> asyncio.Event:
        """Set at the next change, for whoever only looks; `changed` is its writer's."""
        return self._seen

    @property
    def types(self) -> Mapping[str, Mapping[str, AcceptedResource]]:
        return self._types

    def put(self, type_url: str, given: Mapping[str, AcceptedResource], removed: Iterable[str] = ()) -> None:
        """Envoy accepted these, and that those are gone."""
        known = self._types.get(type_url)
        kept = {**(known or {}), **given}
        for name in removed:
            kept.pop(name, None)
        if kept != known:
            self._types[type_url] = kept
            self._note()

    def retain(self, type_url: str, names: Collection[str]) -> None:
        """Envoy has no other resources of this type than those of these names."""
        known = self._types.get(type_url, {})
        kept = {name: resource for name, resource in known.items() if name in names}
        if len(kept) != len(known):
            self._types[type_url] = kept
            self._note()

    def holds(self, type_url: str, name: str, version: str) -> bool:
        kept = self._types.get(type_url, {}).get(name)
        return kept is not None and kept.version == version

    def clear(self) -> None:
        """Keep nothing."""
        if self._types:
            self._types = {}
            self._note()

    def encode(self) -> bytes:
        """All of it: a DiscoveryResponse that holds a DeltaDiscoveryResponse for each type."""
        whole = DiscoveryResponse()
        for type_url, kept in self._types.items():
            resources = [
                Resource(name=name, version=each.version, resource=Any(value=each.body)) for name, each in kept.items()
            ]
            of_type = DeltaDiscoveryResponse(type_url=type_url, resources=resources)
            whole.resources.append(Any(value=of_type.SerializeToString()))
        return whole.SerializeToString()

    @classmethod
    def decode(cls, raw: bytes) -> ConfigRecord:
        """Raises ValueError for what is no record."""
        record = cls()
        try:
            for each in DiscoveryResponse.FromString(raw).resources:
                of_type = DeltaDiscoveryResponse.FromString(each.value)
                record._types[of_type.type_url] = _given(of_type)
        except DecodeError as error:
            raise ValueError(str(error)) from error
        return record

    def _note(self) -> None:
        self.revision += 1
        self.changed.set()
        seen, self._seen = self._seen, asyncio.Event()
        seen.set()


@dataclass(slots=True)
class _Interest:
    """What a stream asks for of one type."""

    wildcard: bool
    complete: bool
    """Whether the record holds no more of this type than Envoy does, which a new Envoy's is only once it was answered."""
    names: set[str] = field(default_factory=set)

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names


class _Flight(NamedTuple):
    """A response that was passed on and not yet answered."""

    type_url: str
    given: Mapping[str, AcceptedResource]
    removed: Collection[str]


class AckTracker:
    """Reads along one delta stream between an Envoy and its control plane, and writes what it learns into the record."""

    def __init__(self, record: ConfigRecord) -> None:
        self._record = record
        self._interests: dict[str, _Interest] = {}
        self._flights: dict[str, _Flight] = {}

    def response(self, raw: bytes) -> None:
        """What the control plane sends, before Envoy gets it."""
        try:
            message = DeltaDiscoveryResponse.FromString(raw)
        except DecodeError:
            return  # Envoy's to refuse
        self._flights[message.nonce] = _Flight(message.type_url, _given(message), [*message.removed_resources])

    def request(self, raw: bytes) -> bytes:
        """What Envoy says; gives what to pass on.

        These are the same bytes, unless Envoy holds resources from a time when no agent read along: they are asked for
        again, so that the record is whole.
        """
        try:
            message = DeltaDiscoveryRequest.FromString(raw)
        except DecodeError:
            return raw  # the control plane's to refuse
        self._answer(message)
        first = message.type_url not in self._interests
        interest = self._subscribe(message)
        if not (first and message.initial_resource_versions):
            return raw
        self._resume(interest, message)
        return message.SerializeToString() if self._forget_unseen(message) else raw

    def _answer(self, message: DeltaDiscoveryRequest) -> None:
        """An ACK makes what was given the accepted; after a NACK Envoy has what it had."""
        flight = self._flights.pop(message.response_nonce, None) if message.response_nonce else None
        interest = self._interests.get(message.type_url)
        if flight is None or interest is None or message.HasField("error_detail"):
            return
        if interest.wildcard and not interest.complete:
            # all there is, or the first part of it: what the last Envoy had besides is gone
            self._record.retain(flight.type_url, flight.given.keys())
        interest.complete = True
        given = {name: kept for name, kept in flight.given.items() if interest.wants(name)}
        self._record.put(flight.type_url, given, flight.removed)

    def _subscribe(self, message: DeltaDiscoveryRequest) -> _Interest:
        added, dropped = message.resource_names_subscribe, message.resource_names_unsubscribe
        interest = self._interests.get(message.type_url)
        if interest is None:
            legacy = not added and message.type_url in WILDCARD_BY_DEFAULT
            interest = self._interests[message.type_url] = _Interest(wildcard=legacy, complete=False)
        interest.wildcard |= WILDCARD in added
        interest.names.update(name for name in added if name != WILDCARD)
        if dropped:
            interest.names.difference_update(dropped)
            interest.wildcard &= WILDCARD not in dropped
            kept = self._record.types.get(message.type_url, {})
            gone = kept.keys() if WILDCARD in dropped else set(dropped)
            self._record.retain(message.type_url, {name for name in kept if name not in gone or interest.wants(name)})
        return interest

    def _resume(self, interest: _Interest, message: DeltaDiscoveryRequest) -> None:
        """Envoy says what it has of this type, and what else it asks for: all besides is of another time."""
        interest.complete = True
        self._record.retain(message.type_url, message.initial_resource_versions.keys() | interest.names)

    def _forget_unseen(self, message: DeltaDiscoveryRequest) -> bool:
        """Take away the versions that the record has not; says whether there were any."""
        versions = message.initial_resource_versions
        unseen = [name for name in versions if not self._record.holds(message.type_url, name, versions[name])]
        for name in unseen:
            versions[name] = _UNKNOWN_VERSION
        return bool(unseen)


def _given(message: DeltaDiscoveryResponse) -> dict[str, AcceptedResource]:
    return {
        each.name: AcceptedResource(each.version, each.resource.value)
        for each in message.resources
        if each.HasField("resource")
    }
