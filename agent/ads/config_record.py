"""The configuration that an Envoy last accepted, learnt from the ADS messages that the agent relays. No I/O.

An `AckTracker` reads the messages of one stream; the `ConfigRecord` is the result of all streams.
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
"""States that Envoy holds a resource of unknown version, so the control plane sends it again or removes it."""


class AcceptedResource(NamedTuple):
    """A resource that Envoy accepted: its version and the value of its Any."""

    version: str
    body: bytes


class ConfigRecord:
    """The accepted resources by type URL and name. A type whose accepted response was empty is present and empty."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """Set at every change, and cleared by the record's writer."""
        self._next_change = asyncio.Event()
        self.revision = 0
        self._types: dict[str, dict[str, AcceptedResource]] = {}

    @property
    def next_change(self) -> asyncio.Event:
        """An event for readers, which is set once, at the next change."""
        return self._next_change

    @property
    def types(self) -> Mapping[str, Mapping[str, AcceptedResource]]:
        return self._types

    def update(self, type_url: str, accepted: Mapping[str, AcceptedResource], removed: Iterable[str] = ()) -> None:
        """Add or replace resources that Envoy accepted, and drop those whose removal it accepted."""
        before = self._types.get(type_url)
        after = {**(before or {}), **accepted}
        for name in removed:
            after.pop(name, None)
        if after != before:
            self._types[type_url] = after
            self._note_change()

    def retain(self, type_url: str, names: Collection[str]) -> None:
        """Drop all resources of a type but those with these names."""
        before = self._types.get(type_url, {})
        after = {name: resource for name, resource in before.items() if name in names}
        if len(after) != len(before):
            self._types[type_url] = after
            self._note_change()

    def has_version(self, type_url: str, name: str, version: str) -> bool:
        resource = self._types.get(type_url, {}).get(name)
        return resource is not None and resource.version == version

    def clear(self) -> None:
        """Drop everything."""
        if self._types:
            self._types = {}
            self._note_change()

    def encode(self) -> bytes:
        """Encode the record as a DiscoveryResponse that holds one DeltaDiscoveryResponse for each type."""
        whole = DiscoveryResponse()
        for type_url, resources_by_name in self._types.items():
            resources = [
                Resource(name=name, version=each.version, resource=Any(value=each.body))
                for name, each in resources_by_name.items()
            ]
            of_type = DeltaDiscoveryResponse(type_url=type_url, resources=resources)
            whole.resources.append(Any(value=of_type.SerializeToString()))
        return whole.SerializeToString()

    @classmethod
    def decode(cls, raw: bytes) -> ConfigRecord:
        """Decode what `encode` wrote. Raises ValueError for invalid bytes."""
        record = cls()
        try:
            for each in DiscoveryResponse.FromString(raw).resources:
                of_type = DeltaDiscoveryResponse.FromString(each.value)
                record._types[of_type.type_url] = _read_resources(of_type)
        except DecodeError as error:
            raise ValueError(str(error)) from error
        return record

    def _note_change(self) -> None:
        self.revision += 1
        self.changed.set()
        event, self._next_change = self._next_change, asyncio.Event()
        event.set()


@dataclass(slots=True)
class _TypeSubscription:
    """A stream's subscription to one type."""

    wildcard: bool
    complete: bool
    """True if the record has no resource that Envoy lacks; for a new Envoy, from its first ACK on."""
    names: set[str] = field(default_factory=set)

    def includes(self, name: str) -> bool:
        return self.wildcard or name in self.names


class _UnansweredResponse(NamedTuple):
    """A response that was relayed, and neither acknowledged nor rejected yet."""

    type_url: str
    resources: Mapping[str, AcceptedResource]
    removed: Collection[str]


class AckTracker:
    """Reads the messages of one delta stream, and updates the record with every ACK."""

    def __init__(self, record: ConfigRecord) -> None:
        self._record = record
        self._subscriptions: dict[str, _TypeSubscription] = {}
        self._unanswered: dict[str, _UnansweredResponse] = {}

    def track_response(self, raw: bytes) -> None:
        """Remember a response of the control plane until Envoy answers it."""
        try:
            message = DeltaDiscoveryResponse.FromString(raw)
        except DecodeError:
            return  # Envoy rejects it
        self._unanswered[message.nonce] = _UnansweredResponse(
            message.type_url, _read_resources(message), [*message.removed_resources]
        )

    def track_request(self, raw: bytes) -> bytes:
        """Apply a request of Envoy's to the record; return the bytes to relay.

        They are the same bytes, unless Envoy states versions that the record lacks, from a time without an agent. These versions are
        emptied, so that the control plane sends the resources again and the record becomes complete.
        """
        try:
            message = DeltaDiscoveryRequest.FromString(raw)
        except DecodeError:
            return raw  # the control plane rejects it
        self._apply_answer(message)
        first = message.type_url not in self._subscriptions
        subscription = self._subscribe(message)
        if not (first and message.initial_resource_versions):
            return raw
        self._resume(subscription, message)
        return message.SerializeToString() if self._empty_unknown_versions(message) else raw

    def _apply_answer(self, message: DeltaDiscoveryRequest) -> None:
        """Update the record with the response that an ACK names. A NACK changes nothing."""
        response = self._unanswered.pop(message.response_nonce, None) if message.response_nonce else None
        subscription = self._subscriptions.get(message.type_url)
        if response is None or subscription is None or message.HasField("error_detail"):
            return
        if subscription.wildcard and not subscription.complete:
            # a new Envoy has only this first response, and nothing that the previous Envoy had
            self._record.retain(response.type_url, response.resources.keys())
        subscription.complete = True
        accepted = {name: each for name, each in response.resources.items() if subscription.includes(name)}
        self._record.update(response.type_url, accepted, response.removed)

    def _subscribe(self, message: DeltaDiscoveryRequest) -> _TypeSubscription:
        added, dropped = message.resource_names_subscribe, message.resource_names_unsubscribe
        subscription = self._subscriptions.get(message.type_url)
        if subscription is None:
            legacy = not added and message.type_url in WILDCARD_BY_DEFAULT
            subscription = _TypeSubscription(wildcard=legacy, complete=False)
            self._subscriptions[message.type_url] = subscription
        subscription.wildcard |= WILDCARD in added
        subscription.names.update(name for name in added if name != WILDCARD)
        if dropped:
            subscription.names.difference_update(dropped)
            subscription.wildcard &= WILDCARD not in dropped
            known = self._record.types.get(message.type_url, {})
            gone = known.keys() if WILDCARD in dropped else set(dropped)
            self._record.retain(
                message.type_url, {name for name in known if name not in gone or subscription.includes(name)}
            )
        return subscription

    def _resume(self, subscription: _TypeSubscription, message: DeltaDiscoveryRequest) -> None:
        """Drop from the record all resources that Envoy neither states nor subscribes to."""
        subscription.complete = True
        self._record.retain(message.type_url, message.initial_resource_versions.keys() | subscription.names)

    def _empty_unknown_versions(self, message: DeltaDiscoveryRequest) -> bool:
        """Empty the stated versions that the record lacks; return whether there were any."""
        versions = message.initial_resource_versions
        unknown = [name for name in versions if not self._record.has_version(message.type_url, name, versions[name])]
        for name in unknown:
            versions[name] = _UNKNOWN_VERSION
        return bool(unknown)


def _read_resources(message: DeltaDiscoveryResponse) -> dict[str, AcceptedResource]:
    return {
        each.name: AcceptedResource(each.version, each.resource.value)
        for each in message.resources
        if each.HasField("resource")
    }
