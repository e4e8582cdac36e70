"""ADS answers from the record: a new Envoy gets everything, and a running one keeps what it has."""

from __future__ import annotations

from uuid import UUID

from agent.ads.config_record import AcceptedResource
from agent.ads.offline_ads import OfflineAds
from model.entities import Role
from model.identity import Identity
from xds.protocol.stream import Close, Send
from xds.translate.names import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, SECRET
from xds.wire import discovery_pb2 as wire

IDENTITY = Identity(UUID(int=1), Role.GATEWAY, UUID(int=2))
A, B = (f"pool/{UUID(int=number)}" for number in (1, 2))
V1 = AcceptedResource("v1", b"one")
TYPES = {
    CLUSTER: {A: V1, B: V1},
    ENDPOINT: {A: V1, B: V1},
    LISTENER: {"clients": V1},
    ROUTE: {"gateway_routes": AcceptedResource("v1", f"to {B}".encode())},
    EXTENSION: {"groups": V1},
    SECRET: {"certificate": V1},
}


class Envoy:
    """A client of OfflineAds."""

    def __init__(self, types=TYPES) -> None:
        self.ads = OfflineAds(types, IDENTITY)
        self.responses: list[wire.DeltaDiscoveryResponse] = []

    def ask(self, type_url, names=(), *, nonce="", holds=None) -> list[str]:
        """Send a request, append its responses to `responses`, and return their types."""
        message = wire.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce, initial_resource_versions=holds)
        message.resource_names_subscribe.extend(names)
        sent = [each for each in self.ads.receive(message.SerializeToString(), 0.0) if isinstance(each, Send)]
        self.responses += [wire.DeltaDiscoveryResponse.FromString(each.data) for each in sent]
        return [each.type_url for each in sent]

    def got(self) -> dict[str, str]:
        return {resource.name: resource.version for resource in self.responses[-1].resources}


def test_new_envoy_gets_all_resources_in_order():
    envoy = Envoy()
    assert envoy.ask(CLUSTER) == [CLUSTER]
    assert envoy.got() == {A: "v1", B: "v1"}
    assert envoy.responses[-1].resources[0].resource.value == b"one"
    # listeners and routes wait for the clusters, and clusters for their endpoints
    assert envoy.ask(LISTENER) == []
    assert envoy.ask(ENDPOINT, [A, B]) == [ENDPOINT]
    assert envoy.ask(CLUSTER, nonce=envoy.responses[0].nonce) == [LISTENER]
    assert envoy.ask(ROUTE, ["gateway_routes"]) == [ROUTE]
    assert envoy.ask(EXTENSION, ["groups"]) == [EXTENSION]
    assert envoy.ask(SECRET, ["certificate"]) == [SECRET]
    assert envoy.got() == {"certificate": "v1"}


def test_envoy_that_holds_record_gets_nothing():
    envoy = Envoy()

    for type_url, kept in TYPES.items():
        assert envoy.ask(type_url, kept.keys(), holds=dict.fromkeys(kept, "v1")) == []
        assert envoy.ask(type_url, ["*"]) in ([], [type_url])


def test_envoy_that_holds_part_gets_rest():
    envoy = Envoy()

    assert envoy.ask(CLUSTER, holds={A: "v1"}) == [CLUSTER]
    assert envoy.got() == {B: "v1"}
    assert envoy.ask(LISTENER, holds={}) == []  # after the clusters, as for a new Envoy


def test_envoy_ahead_of_record_gets_nothing():
    envoy = Envoy()

    assert envoy.ask(CLUSTER, holds={A: "v2", "c": "v1"}) == []
    assert envoy.ask(ENDPOINT, [A, "c"], holds={A: "v2", "c": "v1"}) == []
    assert envoy.ask(LISTENER, ["*"], holds={"other": "v1"}) == []
    assert envoy.ask(ROUTE, ["another"], holds={"another": "v1"}) == []


def test_envoy_ahead_of_record_gets_resources_subscribed_by_name():
    envoy = Envoy()

    assert envoy.ask(ENDPOINT, [A, B, "c"], holds={A: "v2", "c": "v1"}) == [ENDPOINT]
    assert envoy.got() == {B: "v1"}
    assert list(envoy.responses[-1].removed_resources) == []


def test_type_missing_from_record_gets_no_answer():
    envoy = Envoy({CLUSTER: {}})

    assert envoy.ask(LISTENER) == []
    assert envoy.ask(ENDPOINT, [A]) == []
    assert envoy.ask(CLUSTER) == [CLUSTER]  # this type is recorded and empty
    assert Envoy({CLUSTER: {}}).ask(CLUSTER, holds={A: "v1"}) == []


def test_undecodable_request_closes_stream():
    (action,) = OfflineAds(TYPES, IDENTITY).receive(b"\xff", 0.0)

    assert isinstance(action, Close)
    assert action.status == "INVALID_ARGUMENT"
