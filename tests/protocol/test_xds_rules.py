"""The numbered rules of docs/xds-rules.md in their order; a rule of both variants is tested in both."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import AsyncMock
from uuid import UUID

import grpc
import pytest
from envoy_data_plane.envoy.config.core.v3 import Node

from model.connection_table import ConnectionLimits
from model.entities import Pool
from tests.protocol.stream_client import DELTA, IDENTITY, SOTW, StreamClient, StubScope, resource_of, version_of
from xds.protocol.messages import Variant
from xds.protocol.stream import XdsStream
from xds.server.admission import Limits
from xds.server.connection_guard import ConnectionGuard
from xds.server.discovery_service import DiscoveryService
from xds.server.publisher import Publisher
from xds.snapshot.order import ADDITIONS, FULL_STATE
from xds.snapshot.resource import make_resource
from xds.snapshot.snapshot import ProxyView, Snapshot
from xds.translate.endpoints import translate_endpoints
from xds.translate.names import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE
from xds.wire.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from xds.wire.endpoint_pb2 import ClusterLoadAssignment

both = pytest.mark.parametrize("variant", [SOTW, DELTA], ids=["sotw", "delta"])
POOL = f"pool/{UUID(int=1)}"
"""The name of a cluster, by which other resources refer to it."""
VIRTUAL_HOST = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
MIB = 1024 * 1024

# -- both variants -----------------------------------------------------------------------------------------------------


@both
def test_rule_01_only_first_request_has_node(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    (clusters,) = client.request(CLUSTER, node=bytes(Node(id="gateway-1")))
    assert clusters.contents == {"a": "1"}
    (endpoints,) = client.subscribe(ENDPOINT, "a")
    assert endpoints.contents == {"a": "1"}


@both
def test_rule_01_missing_type_url_ends_aggregated_stream(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    assert client.request("") == []
    assert client.closed.status == "INVALID_ARGUMENT"
    assert "type_url" in client.closed.message


@both
def test_rule_01_per_type_stream_needs_no_type_url(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}}, only=CLUSTER)
    (response,) = client.request("")
    assert (response.type_url, response.contents) == (CLUSTER, {"a": "1"})


@both
def test_rule_02_nonces_are_per_type(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    (clusters,) = client.subscribe(CLUSTER)
    client.subscribe(ENDPOINT, "a")
    client.request(ENDPOINT, nonce=clusters.nonce)
    assert client.answers == [], "a nonce of clusters is no nonce of endpoints"
    client.request(CLUSTER, nonce=clusters.nonce)
    assert [answer.type_url for answer in client.answers] == [CLUSTER]


@both
def test_rule_02_versions_are_per_type(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a"))
    (endpoints,) = client.publish({CLUSTER: {"a": "1"}, ENDPOINT: {"a": "2"}})
    assert endpoints.type_url == ENDPOINT


@both
def test_rule_02_nonces_end_with_stream(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    (old,) = client.subscribe(CLUSTER)
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    (response,) = client.request(CLUSTER, nonce=old.nonce)
    assert client.answers == [], "nothing is in flight on this stream"
    assert response.contents == {"a": "1"}, "the first request is answered, whatever its nonce"


@both
def test_rule_03_error_is_nack_with_any_version(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    (response,) = client.subscribe(CLUSTER)
    client.versions[CLUSTER] = response.version  # as if the client had accepted
    client.nack(response, "bad cluster a")
    (answer,) = client.answers
    assert (answer.error, answer.resources.keys(), answer.revision) == ("bad cluster a", {"a"}, 1)


def test_rule_03_no_error_is_ack_with_any_version():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1"}})
    (response,) = client.subscribe(CLUSTER)
    client.request(CLUSTER, nonce=response.nonce, version_info="an older one")
    (answer,) = client.answers
    assert answer.error is None


@both
def test_rule_03_error_without_message_is_nack(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    (response,) = client.subscribe(CLUSTER)
    assert client.nack(response, "") == []
    (answer,) = client.answers
    assert answer.error == ""


@both
def test_rule_03_unchanged_content_is_not_sent_after_nack(variant):
    tables = {CLUSTER: {"a": "1"}}
    client = StreamClient(variant, tables)
    (response,) = client.subscribe(CLUSTER)
    assert client.nack(response) == []
    assert client.publish(tables) == []
    assert client.publish(tables, known=False) == []
    assert client.wait(3600) == []
    (changed,) = client.publish({CLUSTER: {"a": "2"}})
    assert changed.contents == {"a": "2"}


def test_rule_03_resubscribing_resends_rejected_name_delta():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.nack(response)
    (again,) = client.subscribe(ENDPOINT, "a")
    assert again.contents == {"a": "1"}


@both
def test_rule_03_unsubscribing_then_subscribing_resends_rejected_name(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    client.nack(response)
    client.unsubscribe(ENDPOINT, "a")
    (again,) = client.subscribe(ENDPOINT, "a")
    assert again.contents == {"a": "1"}


@both
@pytest.mark.parametrize("type_url", [LISTENER, CLUSTER])
def test_rule_04_no_names_means_all(variant, type_url):
    client = StreamClient(variant, {type_url: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(type_url)
    assert response.contents == {"a": "1", "b": "1"}


def test_rule_04_no_names_means_none_after_a_name_sotw():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(CLUSTER, "a")
    assert response.contents == {"a": "1"}
    client.ack(response)
    (response,) = client.unsubscribe(CLUSTER, "a")
    assert response.contents == {}, "no names means none, not all"
    client.ack(response)
    assert client.publish({CLUSTER: {"a": "2", "b": "2"}}) == []


def test_rule_04_no_names_means_none_after_asterisk_sotw():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER, "*"))
    (response,) = client.unsubscribe(CLUSTER, "*")
    assert response.contents == {}
    client.ack(response)
    assert client.publish({CLUSTER: {"a": "2"}}) == []


def test_rule_04_legacy_wildcard_survives_requests_without_names_sotw():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    assert client.request(CLUSTER) == []
    (response,) = client.publish({CLUSTER: {"a": "2"}})
    assert response.contents == {"a": "2"}


def test_rule_04_names_end_legacy_wildcard_sotw():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.subscribe(CLUSTER, "a")
    assert response.contents == {"a": "1"}, "the full state of the subscribed names"
    client.ack(response)
    assert client.publish({CLUSTER: {"a": "1", "b": "2"}}) == []


def test_rule_04_no_names_in_later_request_means_none_delta():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER, "a"))
    assert client.request(CLUSTER) == []
    assert client.publish({CLUSTER: {"a": "1", "b": "2"}}) == []


@both
@pytest.mark.parametrize("type_url", sorted({*ADDITIONS} - {LISTENER, CLUSTER}))
def test_rule_05_no_names_means_none_without_legacy_wildcard(variant, type_url):
    client = StreamClient(variant, {type_url: {"a": "1"}})
    assert client.request(type_url) == []
    assert client.publish({type_url: {"a": "2"}}) == []


@both
@pytest.mark.parametrize("type_url", ADDITIONS)
def test_rule_05_asterisk_means_all_for_every_type(variant, type_url):
    client = StreamClient(variant, {type_url: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(type_url, "*")
    assert response.contents == {"a": "1", "b": "1"}


@both
@pytest.mark.parametrize("type_url", [VIRTUAL_HOST, RUNTIME, "type.example/of.nobody"])
def test_rule_05_types_that_are_not_served_get_no_response(variant, type_url):
    client = StreamClient(variant, {type_url: {"a": "1"}, CLUSTER: {"a": "1"}})
    assert client.subscribe(type_url, "*", "a") == []
    assert client.closed is None
    assert len(client.subscribe(CLUSTER)) == 1, "the stream goes on"


@both
@pytest.mark.parametrize("type_url", ADDITIONS)
def test_rule_06_missing_name_is_remembered(variant, type_url):
    client = StreamClient(variant, {type_url: {}})
    client.settle(client.subscribe(type_url, "later"))
    (response,) = client.publish({type_url: {"later": "1", "other": "1"}})
    assert response.contents == {"later": "1"}


@both
def test_rule_07_name_subscribed_twice_is_sent_once(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    names = {"resource_names": ["a", "a", "*"]} if variant is SOTW else {"resource_names_subscribe": ["a", "a", "*"]}
    (response,) = client.request(CLUSTER, **names)  # parsing it asserts that no name is in it twice
    assert response.contents == {"a": "1"}


@both
def test_rule_07_overlay_hides_shared_resource(variant):
    def snapshot(key, content):
        return Snapshot(StubScope(key), 1, {CLUSTER: {"a": resource_of(CLUSTER, "a", content)}})

    client = StreamClient(variant)
    client.stream = XdsStream(
        variant, IDENTITY, ProxyView([snapshot("group", "shared"), snapshot("overlay", "its own")])
    )
    (response,) = client.subscribe(CLUSTER)
    assert response.contents == {"a": "its own"}


@both
def test_rule_08_nack_is_for_whole_response(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(CLUSTER)
    client.nack(response)
    (answer,) = client.answers
    assert {name: resource.version for name, resource in answer.resources.items()} == {
        "a": version_of("a", "1"),
        "b": version_of("b", "1"),
    }


@both
def test_rule_08_nack_resends_all_but_named_resources(variant):
    client = StreamClient(variant, {CLUSTER: {"good": "1", "bad": "1"}})
    (response,) = client.subscribe(CLUSTER)
    (again,) = client.nack(response, "Error adding/updating cluster(s) bad: no such option")
    assert again.contents == {"good": "1"}
    assert client.nack(again, "something else") == [], "nothing is left that was not rejected"


@both
def test_rule_08_rollback_to_held_version_ends_uncertainty(variant):
    tables = {CLUSTER: {"c": "1"}, ROUTE: {"r": "1"}}
    client = StreamClient(variant, tables)
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ROUTE, "r"))
    (bad,) = client.publish({**tables, ROUTE: {"r": "bad"}})
    client.nack(bad)
    client.settle(client.publish(tables))
    assert client.publish({**tables, ROUTE: {"r": "bad"}}) == []
    (removal,) = client.publish({CLUSTER: {}, ROUTE: {"r": "1"}})
    assert client.removes(removal, "c")


class StubStreamContext:
    """A stand-in for the context of a gRPC stream."""

    def auth_context(self):
        return {"x509_subject_alternative_name": [IDENTITY.uri.encode()]}

    def peer(self):
        return "ipv4:192.0.2.1:50000"

    async def abort(self, status, message):
        raise ConnectionRefusedError(status, message)


@pytest.mark.parametrize("method", ["StreamAggregatedResources", "DeltaAggregatedResources"], ids=["sotw", "delta"])
async def test_rule_09_stream_is_refused_until_world_is_loaded(method):
    guard = ConnectionGuard(ConnectionLimits())
    service = DiscoveryService(SimpleNamespace(), Publisher(), SimpleNamespace(), Limits(), AsyncMock(), guard)
    for handlers in service.handlers():
        call = SimpleNamespace(
            method=f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}",
            invocation_metadata=(),
        )
        handler = handlers.service(call)
        if handler is not None:
            break
    with pytest.raises(ConnectionRefusedError) as refused:
        await handler.stream_stream(None, StubStreamContext())
    assert refused.value.args[0] is grpc.StatusCode.UNAVAILABLE


@both
def test_rule_10_version_outlives_its_stream(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a"))
    client = client.reconnect()
    assert client.subscribe(CLUSTER) == []
    client.settle(client.subscribe(ENDPOINT, "a"))
    changed = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {"a": "2"}})
    assert [response.type_url for response in changed] == [CLUSTER, ENDPOINT], "changes are sent"


# -- state of the world ------------------------------------------------------------------------------------------------


def test_rule_11_ack_with_more_names_is_answered_at_same_version():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    (more,) = client.request(ENDPOINT, nonce=response.nonce, resource_names=["a", "b"])
    assert more.contents == {"b": "1"}, "only the new name, not what the client holds"
    assert len(client.answers) == 1


def test_rule_11_full_state_says_that_name_does_not_exist():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER, "a"))
    (response,) = client.subscribe(CLUSTER, "missing")
    assert response.contents == {"a": "1"}


def test_rule_12_fewer_names_need_no_response():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    assert client.unsubscribe(ENDPOINT, "b") == []


@pytest.mark.parametrize("type_url", sorted(FULL_STATE))
def test_rule_12_fewer_names_are_answered_with_full_state(type_url):
    client = StreamClient(SOTW, {type_url: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(type_url, "a", "b"))
    (response,) = client.unsubscribe(type_url, "b")
    assert response.contents == {"a": "1"}


@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT])
def test_rule_13_unsubscribe_then_resubscribe_resends(type_url):
    client = StreamClient(SOTW, {type_url: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(type_url, "a", "b"))
    client.settle(client.unsubscribe(type_url, "b"))
    (response,) = client.subscribe(type_url, "b")
    assert response.contents["b"] == "1"


@pytest.mark.parametrize("type_url", sorted(FULL_STATE))
def test_rule_14_each_response_is_full_state(type_url):
    client = StreamClient(SOTW, {type_url: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(type_url))
    (response,) = client.publish({type_url: {"a": "2", "b": "1"}})
    assert response.contents == {"a": "2", "b": "1"}
    client.ack(response)
    (response,) = client.publish({type_url: {"a": "2"}})
    assert response.contents == {"a": "2"}
    client.ack(response)
    (response,) = client.publish({type_url: {}})
    assert response.contents == {}, "it deletes everything"


@pytest.mark.parametrize("type_url", sorted({*ADDITIONS} - FULL_STATE - {EXTENSION}))
def test_rule_14_absence_means_nothing_for_other_types(type_url):
    client = StreamClient(SOTW, {type_url: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(type_url, "a", "b"))
    (response,) = client.publish({type_url: {"a": "2", "b": "1"}})
    assert response.contents == {"a": "2"}
    client.ack(response)
    assert client.publish({type_url: {"a": "2"}}) == [], "this removal cannot be expressed"
    (response,) = client.publish({type_url: {"a": "2", "b": "1"}})
    assert response.contents == {"b": "1"}, "a resource that exists again is sent"


def test_rule_15_stale_nonce_adds_names_without_response():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a")
    client.ack(first)
    (second,) = client.publish({ENDPOINT: {"a": "2", "b": "1"}})
    client.names[ENDPOINT] = ["a", "b"]
    assert client.request(ENDPOINT, nonce=first.nonce) == [], "it was sent before the second response arrived"
    (third,) = client.ack(second)
    assert third.contents == {"b": "1"}


def test_rule_15_stale_nonce_removes_names():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a", "b")
    client.ack(first)
    (second,) = client.publish({ENDPOINT: {"a": "2", "b": "1"}})
    client.names[ENDPOINT] = ["a"]
    assert client.request(ENDPOINT, nonce=first.nonce) == []
    client.ack(second)
    assert client.publish({ENDPOINT: {"a": "2", "b": "2"}}) == []


def test_rule_16_retained_version_does_not_cover_added_names():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    client = client.reconnect()
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    assert response.contents == {"a": "1", "b": "1"}


def test_rule_16_version_covers_only_what_was_sent():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    (bad,) = client.publish({ENDPOINT: {"a": "1", "b": "2"}})
    client.nack(bad)
    client.settle(client.publish({ENDPOINT: {"a": "2", "b": "2"}}))
    client = client.reconnect()
    assert client.held[ENDPOINT] == {"a": "2", "b": "1"}
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    assert response.contents["b"] == "2", "it accepted a version while it held an older b"


def test_rule_16_name_dropped_and_added_again_is_sent_after_reconnect():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    client.settle(client.unsubscribe(ENDPOINT, "b"))  # needs no response, so the client keeps the version of both
    client = client.reconnect()
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    assert response.contents["b"] == "1"


@pytest.mark.parametrize("type_url", sorted(FULL_STATE))
def test_rule_16_named_full_state_is_sent_after_reconnect(type_url):
    client = StreamClient(SOTW, {type_url: {"a": "1", "b": "1"}})
    (state,) = client.subscribe(type_url, "a", "b")
    client.ack(state)
    client.unsubscribe(type_url, "b")  # its response is lost with the stream
    client = client.reconnect()
    (response,) = client.subscribe(type_url, "a", "b")
    assert response.contents == {"a": "1", "b": "1"}


@both
def test_rule_17_pool_without_exits_has_empty_endpoints(variant):
    pool = Pool(id=IDENTITY.proxy_id, fleet_id=IDENTITY.fleet_id, name="empty", country="de")
    assignment = translate_endpoints(pool, ())
    name = assignment.cluster_name
    resource = make_resource(ENDPOINT, name, assignment.SerializeToString())
    stream = XdsStream(variant, IDENTITY, ProxyView([Snapshot(StubScope(), 1, {ENDPOINT: {name: resource}})]))
    if variant is DELTA:
        request = DeltaDiscoveryRequest(type_url=ENDPOINT, resource_names_subscribe=[name])
    else:
        request = DiscoveryRequest(type_url=ENDPOINT, resource_names=[name])
    (send,) = stream.receive(request.SerializeToString(), 0)
    response = (DeltaDiscoveryResponse if variant is DELTA else DiscoveryResponse).FromString(send.data)
    (sent,) = response.resources
    body = sent.resource.value if variant is DELTA else sent.value
    assert ClusterLoadAssignment.FromString(body) == ClusterLoadAssignment(cluster_name=name)


@both
def test_rule_18_response_does_not_wait_for_all_names(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}})
    client.subscribe(CLUSTER)
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.contents == {"a": "1"}


@both
def test_rule_19_pending_update_of_unsubscribed_name_is_dropped(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    assert client.publish({ENDPOINT: {"a": "1", "b": "2"}}) == [], "one response at a time"
    client.unsubscribe(ENDPOINT, "b")
    assert client.ack(response) == []


@both
def test_rule_19_nack_does_not_bring_back_unsubscribed_name(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    client.publish({ENDPOINT: {"a": "1", "b": "2"}})
    client.unsubscribe(ENDPOINT, "b")
    assert client.nack(response) == []


@pytest.mark.parametrize("accepts", [True, False])
def test_rule_19_crossing_response_makes_name_uncertain_delta(accepts):
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1", "gone": "1"}})
    (response,) = client.subscribe(ENDPOINT, "*")
    client.publish({ENDPOINT: {"a": "1"}})
    client.unsubscribe(ENDPOINT, "*")
    client.subscribe(ENDPOINT, "*")
    responses = client.settle(client.ack(response) if accepts else client.nack(response))
    assert [(response.contents, response.removed) for response in responses] == [({"a": "1"}, []), ({}, ["gone"])]


def test_rule_19_crossing_response_makes_name_resent_sotw():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    client.request(ENDPOINT, nonce="", resource_names=["b"])
    client.request(ENDPOINT, nonce="", resource_names=["a", "b"])
    (again,) = client.ack(response)
    assert again.contents == {"a": "1"}


def test_rule_19_pending_update_of_dropped_wildcard_is_dropped_sotw():
    client = StreamClient(SOTW, {CLUSTER: {POOL: "1"}, LISTENER: {"a": POOL, "b": POOL}})
    (clusters,) = client.subscribe(CLUSTER)
    assert client.subscribe(LISTENER) == [], "listeners wait for their clusters"
    assert client.subscribe(LISTENER, "a") == []
    (listeners,) = client.ack(clusters)
    assert listeners.contents == {"a": POOL}


def test_rule_19_pending_update_of_dropped_wildcard_is_dropped_delta():
    client = StreamClient(DELTA, {CLUSTER: {POOL: "1"}, LISTENER: {"a": POOL, "b": POOL}})
    (clusters,) = client.subscribe(CLUSTER)
    assert client.subscribe(LISTENER, "*", "a") == [], "listeners wait for their clusters"
    client.unsubscribe(LISTENER, "*")
    (listeners,) = client.ack(clusters)
    assert listeners.contents == {"a": POOL}


# -- delta -------------------------------------------------------------------------------------------------------------


def test_rule_20_stale_nonce_changes_subscription():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a")
    client.ack(first)
    (more,) = client.request(ENDPOINT, nonce=first.nonce, resource_names_subscribe=["b"])
    assert more.contents == {"b": "1"}
    assert len(client.answers) == 1, "the first answer to a response counts"
    client.ack(more)
    client.request(ENDPOINT, nonce=first.nonce, resource_names_unsubscribe=["b"])
    assert client.publish({ENDPOINT: {"a": "1", "b": "2"}}) == []


def test_rule_21_spontaneous_request_has_no_nonce():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a")
    assert client.request(ENDPOINT, resource_names_subscribe=["b"]) == []
    assert client.answers == [], "it acknowledges nothing"
    (more,) = client.ack(first)
    assert more.contents == {"b": "1"}


def test_rule_22_subscribing_to_held_name_resends_it():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.contents == {"a": "1"}


def test_rule_22_subscribing_to_removed_name_resends_removal():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1"}}, grace_s=10)
    client.settle(client.subscribe(ENDPOINT, "a"))
    client.publish({ENDPOINT: {}})
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.removed == ["a"]


def test_rule_22_unsubscribing_then_subscribing_resends():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert client.unsubscribe(ENDPOINT, "a") == []
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.contents == {"a": "1"}


def test_rule_23_subscriptions_accumulate():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1", "b": "1", "c": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    client.settle(client.subscribe(ENDPOINT, "b"))
    (response,) = client.publish({ENDPOINT: {"a": "2", "b": "2", "c": "2"}})
    assert response.contents == {"a": "2", "b": "2"}


@both
def test_rule_23_asterisk_and_names_together(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(CLUSTER, "*", "a", "missing")
    assert response.contents == {"a": "1", "b": "1"}
    assert response.removed == (["missing"] if variant is DELTA else [])
    client.ack(response)
    client.settle(client.unsubscribe(CLUSTER, "*"))
    client.settle(client.publish({CLUSTER: {"a": "2", "b": "2", "missing": "2"}}))
    assert {client.held[CLUSTER].get(name) for name in ("a", "missing")} == {"2"}, "the names survive the asterisk"
    assert client.held[CLUSTER].get("b") != "2"


def test_rule_23_name_keeps_legacy_wildcard_until_asterisk_is_dropped():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(CLUSTER, "a"))
    (response,) = client.publish({CLUSTER: {"a": "1", "b": "2"}})
    assert response.contents == {"b": "2"}
    client.ack(response)
    assert client.unsubscribe(CLUSTER, "*") == []
    (response,) = client.publish({CLUSTER: {"a": "2", "b": "3"}})
    assert response.contents == {"a": "2"}


def test_rule_23_subscribing_to_asterisk_again_sends_dropped_names():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER, "*", "a"))
    client.unsubscribe(CLUSTER, "*")
    (response,) = client.subscribe(CLUSTER, "*")
    assert response.contents == {"b": "1"}
    client.ack(response)
    assert client.subscribe(CLUSTER, "*") == [], "it is subscribed already"


@pytest.mark.parametrize("exists", [True, False])
def test_rule_24_unsubscribing_under_wildcard_is_answered(exists):
    client = StreamClient(DELTA, {CLUSTER: {"a": "1", "b": "1"} if exists else {"b": "1"}})
    client.settle(client.subscribe(CLUSTER, "*", "a"))
    (response,) = client.unsubscribe(CLUSTER, "a")
    assert (response.contents, response.removed) == (({"a": "1"}, []) if exists else ({}, ["a"]))


def test_rule_24_unsubscribing_from_unknown_names_is_ignored():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    assert client.request(CLUSTER, resource_names_unsubscribe=["a", "never"]) == []
    assert client.request(ENDPOINT, resource_names_unsubscribe=["never", "*"]) == []
    (response,) = client.publish({CLUSTER: {"a": "2"}})
    assert response.contents == {"a": "2"}, "the wildcard still matches it"


def test_rule_25_missing_name_is_sent_as_removed_and_stays_subscribed():
    client = StreamClient(DELTA, {ENDPOINT: {}})
    (response,) = client.subscribe(ENDPOINT, "later")
    assert (response.contents, response.removed) == ({}, ["later"])
    client.ack(response)
    assert client.publish({ENDPOINT: {"other": "1"}}) == [], "it is sent once"
    (response,) = client.publish({ENDPOINT: {"later": "1"}})
    assert response.contents == {"later": "1"}


def test_rule_25_removed_name_stays_subscribed():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    (response,) = client.publish({ENDPOINT: {}})
    assert response.removed == ["a"]
    client.ack(response)
    (response,) = client.publish({ENDPOINT: {"a": "1"}})
    assert response.contents == {"a": "1"}


@both
@pytest.mark.parametrize("type_url", [LISTENER, CLUSTER])
def test_rule_26_first_wildcard_request_is_answered_when_empty(variant, type_url):
    client = StreamClient(variant, {})
    (response,) = client.subscribe(type_url)
    assert (response.contents, response.removed) == ({}, [])
    assert client.ack(response) == []
    assert client.publish({}) == []


def test_rule_26_resuming_wildcard_request_needs_no_response():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client = client.reconnect()
    assert client.subscribe(CLUSTER) == []


def test_rule_27_reconnect_sends_changes_and_removals():
    client = StreamClient(DELTA, {CLUSTER: {"same": "1", "changed": "1", "vanished": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.tables = {CLUSTER: {"same": "1", "changed": "2", "new": "1"}}
    client = client.reconnect()
    responses = client.settle(client.subscribe(CLUSTER))
    assert [(response.contents, response.removed) for response in responses] == [
        ({"changed": "2", "new": "1"}, []),
        ({}, ["vanished"]),
    ]


def test_rule_27_reconnect_by_name_sends_changes_and_removals():
    client = StreamClient(DELTA, {ENDPOINT: {"same": "1", "changed": "1", "vanished": "1", "other": "1"}})
    client.settle(client.subscribe(ENDPOINT, "same", "changed", "vanished", "other"))
    client.tables = {ENDPOINT: {"same": "1", "changed": "2", "other": "2"}}
    client = client.reconnect()
    responses = client.settle(client.subscribe(ENDPOINT, "same", "changed", "vanished", "new"))
    assert [(response.contents, response.removed) for response in responses] == [
        ({"changed": "2"}, ["new"]),
        ({}, ["vanished"]),
    ]


def test_rule_27_resource_without_version_counts_as_held():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1"}})
    versions = {"a": "", "vanished": ""}  # from a server that sends no versions
    responses = client.settle(client.request(CLUSTER, initial_resource_versions=versions))
    assert [(response.contents, response.removed) for response in responses] == [({"a": "1"}, []), ({}, ["vanished"])]


def test_rule_27_versions_count_only_in_first_request():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    assert client.request(CLUSTER, initial_resource_versions={"a": "an older one", "vanished": "1"}) == []


@both
def test_rule_28_resource_is_sent_under_its_name(variant):
    client = StreamClient(variant, {ROUTE: {"a": "1"}})
    (response,) = client.subscribe(ROUTE, "a")  # parsing it asserts that envelope and body agree on the name
    assert list(response.contents) == ["a"]


@both
def test_rule_29_server_never_removes_extension(variant):
    client = StreamClient(variant, {EXTENSION: {"a": "1"}})
    client.settle(client.subscribe(EXTENSION, "a"))
    assert client.publish({EXTENSION: {}}) == []
    assert client.wait(3600) == []
    (response,) = client.publish({EXTENSION: {"a": "2"}})
    assert response.contents == {"a": "2"}


@both
def test_rule_29_removed_extension_keeps_clusters_until_unsubscribed(variant):
    client = StreamClient(variant, {CLUSTER: {"c": "1"}, EXTENSION: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(EXTENSION, "a"))
    assert client.publish({CLUSTER: {}, EXTENSION: {}}) == []
    (removal,) = client.unsubscribe(EXTENSION, "a")
    assert client.removes(removal, "c")


@both
def test_rule_30_rollback_after_nack_is_sent(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.publish({CLUSTER: {"a": "2"}})
    client.nack(response)
    (response,) = client.publish({CLUSTER: {"a": "1"}})
    assert response.contents == {"a": "1"}, "the client may have taken the second version"


def test_rule_30_removal_in_rejected_response_is_sent_again():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "missing")
    assert response.removed == ["missing"]
    (again,) = client.nack(response)
    assert (again.contents, again.removed) == ({}, ["missing"])
    assert client.nack(again) == [], "once"


def test_rule_30_version_does_not_cover_rejected_resource_sotw():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.nack(response)
    client = client.reconnect()
    assert client.subscribe(ENDPOINT, "a")[0].contents == {"a": "1"}, "the version does not cover it"


def test_rule_31_large_delta_response_is_split():
    names = {f"cluster-{number}" for number in range(9)}
    client = StreamClient(DELTA, {CLUSTER: dict.fromkeys(names, "x" * MIB)})
    responses = client.subscribe(CLUSTER)
    assert len(responses) > 1
    assert max(response.bytes_ for response in responses) < 4 * MIB
    assert {name for response in responses for name in response.contents} == names
    assert client.ack(*responses) == []
    assert len(client.answers) == len(responses)


def test_rule_31_long_list_of_removals_is_split():
    names = {f"{'missing' * 100}-{number}" for number in range(8_000)}
    client = StreamClient(DELTA, {ENDPOINT: {}})
    responses = client.subscribe(ENDPOINT, *names)
    assert max(response.bytes_ for response in responses) < 4 * MIB
    assert {name for response in responses for name in response.removed} == names
    assert client.ack(*responses) == []


def test_rule_31_large_sotw_response_by_name_is_sent_in_turns():
    names = {f"endpoints-{number}": "x" * MIB for number in range(9)}
    client = StreamClient(SOTW, {ENDPOINT: names})
    responses = client.settle(client.subscribe(ENDPOINT, *names))
    assert len(responses) > 1
    assert max(response.bytes_ for response in responses) < 4 * MIB
    assert client.held[ENDPOINT] == names


def test_rule_31_full_state_is_not_split():
    contents = {f"cluster-{number}": "x" * MIB for number in range(5)}
    client = StreamClient(SOTW, {CLUSTER: contents})
    (response,) = client.subscribe(CLUSTER)
    assert response.contents == contents, "the client would delete what it leaves out"


@both
def test_rule_31_resource_above_limit_is_sent_alone(variant):
    client = StreamClient(variant, {ENDPOINT: {"small": "x", "large": "x" * 3 * MIB}})
    responses = client.settle(client.subscribe(ENDPOINT, "small", "large"))
    assert [list(response.contents) for response in responses] in ([["small"], ["large"]], [["large"], ["small"]])


# -- order: the whole of it is in test_order.py ------------------------------------------------------------------------


@both
def test_rule_32_additions_in_order_then_removals_after_acks(variant):
    old = {type_url: {"old": "1"} for type_url in (LISTENER, ROUTE, CLUSTER, ENDPOINT)}
    new = {type_url: {"new": "1"} for type_url in (LISTENER, ROUTE, CLUSTER, ENDPOINT)}
    client = StreamClient(variant, old)
    for type_url, names in ((CLUSTER, ()), (ENDPOINT, ("old", "new")), (LISTENER, ()), (ROUTE, ("old", "new"))):
        client.settle(client.subscribe(type_url, *names))
    responses = client.settle(client.publish(new))
    assert list(dict.fromkeys(response.type_url for response in responses)) == [CLUSTER, ENDPOINT, LISTENER, ROUTE]
    steps = [(response.type_url, "new" in response.contents, client.removes(response, "old")) for response in responses]
    expected = [(CLUSTER, True, False), (ENDPOINT, True, False), (LISTENER, True, False), (ROUTE, True, False)]
    expected += [(LISTENER, variant is SOTW, True)]  # a full state repeats the other resources
    expected += [(ROUTE, False, True)] if variant is DELTA else []
    expected += [(CLUSTER, variant is SOTW, True)]
    expected += [(ENDPOINT, False, True)] if variant is DELTA else []
    assert steps == expected


@both
def test_rule_33_changed_cluster_is_followed_by_endpoints(variant):
    endpoints = {"a": "1", "b": "1"}
    client = StreamClient(variant, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: endpoints})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    clusters, follower = client.publish({CLUSTER: {"a": "2", "b": "1"}, ENDPOINT: endpoints})
    assert clusters.contents["a"] == "2"
    assert (follower.type_url, follower.contents) == (ENDPOINT, {"a": "1"})


@both
def test_rule_33_repeated_cluster_that_client_holds_is_not_followed(variant):
    endpoints = {"a": "1", "b": "1"}
    client = StreamClient(variant, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: endpoints})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    bad, follower = client.publish({CLUSTER: {"a": "bad", "b": "1"}, ENDPOINT: endpoints})
    client.ack(follower)
    client.nack(bad)
    client.settle(client.publish({CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: endpoints}))
    clusters, follower = client.publish({CLUSTER: {"a": "bad", "b": "2"}, ENDPOINT: endpoints})
    assert "bad" not in clusters.contents.values()
    assert follower.contents == {"b": "1"}


@both
def test_rule_33_endpoints_under_wildcard_follow(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "*"))
    _, follower = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {"a": "1"}})
    assert (follower.type_url, follower.contents) == (ENDPOINT, {"a": "1"})


@both
def test_rule_33_endpoints_in_flight_are_sent_again(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (endpoints,) = client.subscribe(ENDPOINT, "a")
    (clusters,) = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {"a": "1"}})
    (follower,) = client.ack(endpoints)
    assert (clusters.type_url, follower.contents) == (CLUSTER, {"a": "1"})


@both
def test_rule_33_endpoints_follow_cluster_changed_before_reconnect(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    client.tables = {CLUSTER: {"a": "2", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}}
    client = client.reconnect()
    (clusters,) = client.subscribe(CLUSTER)
    assert clusters.contents["a"] == "2"
    (endpoints,) = client.subscribe(ENDPOINT, "a", "b")
    assert "a" in endpoints.contents, "Envoy subscribes to endpoints after clusters"


@both
def test_rule_34_client_features_are_ignored(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    features = b"xds.config.supports-resource-in-sotw"
    unknown_to_us = b"\x52" + bytes([len(features)]) + features  # node.client_features, field 10
    node = bytes(Node(id="n")) + unknown_to_us
    field = b"\x12" if variant is SOTW else b"\x0a"
    (response,) = client.receive(field + bytes([len(node)]) + node + _type_url_field(variant, CLUSTER))
    assert response.contents == {"a": "1"}


def _type_url_field(variant: Variant, type_url: str) -> bytes:
    return (b"\x22" if variant is SOTW else b"\x12") + bytes([len(type_url)]) + type_url.encode()
