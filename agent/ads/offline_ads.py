"""Speaks for a control plane that is away: the protocol core over the record.

Imported when it is needed: with the core comes what translates, which an agent has no other use for.
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
    """One stream answered from the record as it is now.

    An Envoy that started anew gets everything, in the order of make before break. One that lives is left as it is, even
    if what it holds is not what the record says: it may have been served past the agent.
    """

    def __init__(self, types: Types, identity: Identity) -> None:
        self._types = types
        self._stream = XdsStream(Variant.DELTA, identity, _view(types))
        self._seen: set[str] = set()

    def receive(self, raw: bytes, now: float) -> Sequence[Action]:
        """What to do about a request. Nothing, if it is of a type that was never answered: what is not known is not empty."""
        try:
            message = DeltaDiscoveryRequest.FromString(raw)
        except DecodeError:
            return self._stream.receive(raw, now)
        known = self._types.get(message.type_url)
        if known is None:
            return []
        if message.type_url not in self._seen:
            self._seen.add(message.type_url)
            if message.initial_resource_versions:
                return self._resume(message, known, now)
        return self._stream.receive(raw, now)

    def _resume(
        self, message: DeltaDiscoveryRequest, known: Mapping[str, AcceptedResource], now: float
    ) -> Sequence[Action]:
        """Tell the core that Envoy holds what the record has, where it holds anything of that name."""
        held = dict(message.initial_resource_versions)
        names = [*message.resource_names_subscribe]
        if all(name in known and known[name].version == version for name, version in held.items()):
            return self._stream.receive(message.SerializeToString(), now)
        wanted = [name for name in names if name == WILDCARD or name in known or name not in held]
        wildcard = not names or WILDCARD in names
        if not wanted and not wildcard:
            return []
        # an Envoy that is ahead of the record lacks what was removed since
        assumed = known if wildcard else held.keys() & known.keys()
        message.ClearField("initial_resource_versions")
        message.ClearField("resource_names_subscribe")
        message.resource_names_subscribe.extend(wanted)
        message.initial_resource_versions.update({name: known[name].version for name in assumed})
        return self._stream.receive(message.SerializeToString(), now) if known else []


class _Recorded:
    """The scope of what is taken from a record: nothing is translated for it."""

    key = "record"
    types: frozenset[str] = frozenset()
    shared = False

    def fleet(self, _world: World) -> None:
        return None

    def resources(self, _world: World) -> frozenset[ResourceId]:
        return frozenset()

    def translate(self, _world: World, _resource: ResourceId) -> None:
        return None

    def touched(self, _change: Change, _old: World, _new: World) -> tuple[()]:
        return ()


def _view(types: Types) -> ProxyView:
    """With the versions that the control plane gave, so that what came from here need not be sent again."""
    table = {
        type_url: {name: Resource(type_url, name, each.version, each.body) for name, each in kept.items()}
        for type_url, kept in types.items()
    }
    return ProxyView([Snapshot(_Recorded(), 0, table)])
