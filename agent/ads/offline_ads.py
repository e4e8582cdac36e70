"""ADS answers from the config record while the control plane is unreachable.

Import this module only when it is needed: it loads the protocol and translation code, which an agent does not need otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from agent.ads.config_record import WILDCARD, AcceptedResource
from model.identity import Identity
from model.world import Change, World
from xds.protocol.messages import Variant
from xds.protocol.stream import Action, XdsStream
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView, Snapshot
from xds.translate.resource_ids import ResourceId
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest

Types = Mapping[str, Mapping[str, AcceptedResource]]


class OfflineAds:
    """One delta stream, answered from the record.

    A restarted Envoy gets all resources, in make-before-break order. A running Envoy keeps what it has, even if that differs from
    the record, because it may have been configured directly by the control plane.
    """

    def __init__(self, types: Types, identity: Identity) -> None:
        self._types = types
        self._stream = XdsStream(Variant.DELTA, identity, _build_view(types))
        self._requested: set[str] = set()

    def receive(self, raw: bytes, now: float) -> Sequence[Action]:
        """Answer a request. A type that the record lacks gets no answer, because unknown does not mean empty."""
        try:
            message = DeltaDiscoveryRequest.FromString(raw)
        except DecodeError:
            return self._stream.receive(raw, now)
        recorded = self._types.get(message.type_url)
        if recorded is None:
            return []
        if message.type_url not in self._requested:
            self._requested.add(message.type_url)
            if message.initial_resource_versions:
                return self._resume(message, recorded, now)
        return self._stream.receive(raw, now)

    def _resume(
        self, message: DeltaDiscoveryRequest, recorded: Mapping[str, AcceptedResource], now: float
    ) -> Sequence[Action]:
        """State the recorded versions for the resources that Envoy holds, so that these are not sent again."""
        held = dict(message.initial_resource_versions)
        names = [*message.resource_names_subscribe]
        if all(name in recorded and recorded[name].version == version for name, version in held.items()):
            return self._stream.receive(message.SerializeToString(), now)
        subscribed = [name for name in names if name == WILDCARD or name in recorded or name not in held]
        wildcard = not names or WILDCARD in names
        if not subscribed and not wildcard:
            return []
        # an Envoy ahead of the record may lack resources because they were removed since
        assumed = recorded if wildcard else held.keys() & recorded.keys()
        message.ClearField("initial_resource_versions")
        message.ClearField("resource_names_subscribe")
        message.resource_names_subscribe.extend(subscribed)
        message.initial_resource_versions.update({name: recorded[name].version for name in assumed})
        return self._stream.receive(message.SerializeToString(), now) if recorded else []


class _RecordScope:
    """A scope for recorded resources, which need no translation."""

    key = "record"
    types: frozenset[str] = frozenset()
    shared = False
    urgent = False

    def fleet(self, _world: World) -> None:
        return None

    def size(self, _world: World) -> int:
        return 1

    def resources(self, _world: World) -> frozenset[ResourceId]:
        return frozenset()

    def translate(self, _world: World, _resource: ResourceId) -> None:
        return None

    def touched(self, _change: Change, _old: World, _new: World) -> tuple[()]:
        return ()


def _build_view(types: Types) -> ProxyView:
    """Build a view with the control plane's own versions, so that it need not send these resources again."""
    table = {
        type_url: {name: Resource(type_url, name, each.version, each.body) for name, each in resources.items()}
        for type_url, resources in types.items()
    }
    return ProxyView([Snapshot(_RecordScope(), 0, table)])
