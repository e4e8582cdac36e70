"""The numbered rules of docs/xds-rules.md, one after the other; where a rule concerns both variants, in both."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest

from model.entities import Pool
from tests.protocol.client import DELTA, IDENTITY, SOTW, AnyScope, Client, resource_of, version_of
from xds.protocol.messages import Variant
from xds.protocol.stream import XdsStream
from xds.server.admission import Limits
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
    Node,
)
from xds.wire.endpoint_pb2 import ClusterLoadAssignment

both = pytest.mark.parametrize("variant", [SOTW, DELTA], ids=["sotw", "delta"])
VIRTUAL_HOST = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
RUNTIME = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
MIB = 1024 * 1024

# -- both variants -----------------------------------------------------------------------------------------------------


@both
def test_rule_01_only_the_first_request_carries_the_node(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    (clusters,) = client.request(CLUSTER, node=Node(id="gateway-1"))
    assert clusters.contents == {"a": "1"}
    (endpoints,) = client.subscribe(ENDPOINT, "a")
    assert endpoints.contents == {"a": "1"}


@both
def test_rule_01_a_missing_type_url_ends_an_aggregated_stream(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}})
    assert client.request("") == []
    assert client.closed.status == "INVALID_ARGUMENT"
    assert "type_url" in client.closed.message


@both
def test_rule_01_a_stream_of_one_type_needs_no_type_url(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}}, only=CLUSTER)
    (response,) = client.request("")
    assert (response.type_url, response.contents) == (CLUSTER, {"a": "1"})


@both
def test_rule_02_nonces_are_per_type(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    (clusters,) = client.subscribe(CLUSTER)
    client.subscribe(ENDPOINT, "a")
    client.request(ENDPOINT, nonce=clusters.nonce)
    assert client.answers == [], "a nonce of clusters says nothing about endpoints"
    client.request(CLUSTER, nonce=clusters.nonce)
    assert [answer.type_url for answer in client.answers] == [CLUSTER]


@both
def test_rule_02_versions_are_per_type(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a"))
    (endpoints,) = client.publish({CLUSTER: {"a": "1"}, ENDPOINT: {"a": "2"}})
    assert endpoints.type_url == ENDPOINT


@both
def test_rule_02_nonces_die_with_the_stream(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}})
    (old,) = client.subscribe(CLUSTER)
    client = Client(variant, {CLUSTER: {"a": "1"}})
    (response,) = client.request(CLUSTER, nonce=old.nonce)
    assert client.answers == [], "nothing is in flight on this stream"
    assert response.contents == {"a": "1"}, "and the first request is answered, whatever its nonce"


@both
def test_rule_03_an_error_is_a_rejection_whatever_the_version(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}})
    (response,) = client.subscribe(CLUSTER)
    client.versions[CLUSTER] = response.version  # as if it had accepted
    client.nack(response, "bad cluster a")
    (answer,) = client.answers
    assert (answer.error, answer.given.keys(), answer.revision) == ("bad cluster a", {"a"}, 1)


def test_rule_03_no_error_is_an_acceptance_whatever_the_version():
    client = Client(SOTW, {CLUSTER: {"a": "1"}})
    (response,) = client.subscribe(CLUSTER)
    client.request(CLUSTER, nonce=response.nonce, version_info="an older one")
    (answer,) = client.answers
    assert answer.error is None


@both
def test_rule_03_an_error_without_words_is_a_rejection_too(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}})
    (response,) = client.subscribe(CLUSTER)
    assert client.nack(response, "") == []
    (answer,) = client.answers
    assert answer.error == ""


@both
def test_rule_03_unchanged_content_is_not_sent_again_after_a_rejection(variant):
    tables = {CLUSTER: {"a": "1"}}
    client = Client(variant, tables)
    (response,) = client.subscribe(CLUSTER)
    assert client.nack(response) == []
    assert client.publish(tables) == []
    assert client.publish(tables, known=False) == []
    assert client.wait(3600) == []
    (changed,) = client.publish({CLUSTER: {"a": "2"}})
    assert changed.contents == {"a": "2"}


def test_rule_03_who_asks_for_a_rejected_name_anew_is_answered_delta():
    client = Client(DELTA, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.nack(response)
    (again,) = client.subscribe(ENDPOINT, "a")
    assert again.contents == {"a": "1"}


@both
def test_rule_03_who_gives_a_rejected_name_up_and_asks_for_it_anew_is_answered(variant):
    client = Client(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    client.nack(response)
    client.unsubscribe(ENDPOINT, "a")
    (again,) = client.subscribe(ENDPOINT, "a")
    assert again.contents == {"a": "1"}


@both
@pytest.mark.parametrize("type_url", [LISTENER, CLUSTER])
def test_rule_04_no_names_means_all_of_them(variant, type_url):
    client = Client(variant, {type_url: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(type_url)
    assert response.contents == {"a": "1", "b": "1"}


def test_rule_04_no_names_means_none_once_a_name_was_sent_sotw():
    client = Client(SOTW, {CLUSTER: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(CLUSTER, "a")
    assert response.contents == {"a": "1"}
    client.ack(response)
    (response,) = client.unsubscribe(CLUSTER, "a")
    assert response.contents == {}, "none, and not all"
    client.ack(response)
    assert client.publish({CLUSTER: {"a": "2", "b": "2"}}) == []


def test_rule_04_no_names_means_none_once_the_asterisk_was_sent_sotw():
    client = Client(SOTW, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER, "*"))
    (response,) = client.unsubscribe(CLUSTER, "*")
    assert response.contents == {}
    client.ack(response)
    assert client.publish({CLUSTER: {"a": "2"}}) == []


def test_rule_04_the_legacy_wildcard_outlives_requests_without_names_sotw():
    client = Client(SOTW, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    assert client.request(CLUSTER) == []
    (response,) = client.publish({CLUSTER: {"a": "2"}})
    assert response.contents == {"a": "2"}


def test_rule_04_names_end_the_legacy_wildcard_sotw():
    client = Client(SOTW, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.subscribe(CLUSTER, "a")
    assert response.contents == {"a": "1"}, "the full state of what is asked for now"
    client.ack(response)
    assert client.publish({CLUSTER: {"a": "1", "b": "2"}}) == []


def test_rule_04_no_names_in_a_later_request_means_none_delta():
    client = Client(DELTA, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER, "a"))
    assert client.request(CLUSTER) == []
    assert client.publish({CLUSTER: {"a": "1", "b": "2"}}) == []


@both
@pytest.mark.parametrize("type_url", sorted(ADDITIONS.keys() - {LISTENER, CLUSTER}))
def test_rule_05_no_names_means_nothing_for_types_without_a_legacy_wildcard(variant, type_url):
    client = Client(variant, {type_url: {"a": "1"}})
    assert client.request(type_url) == []
    assert client.publish({type_url: {"a": "2"}}) == []


@both
@pytest.mark.parametrize("type_url", ADDITIONS)
def test_rule_05_the_asterisk_means_all_for_every_type(variant, type_url):
    client = Client(variant, {type_url: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(type_url, "*")
    assert response.contents == {"a": "1", "b": "1"}


@both
@pytest.mark.parametrize("type_url", [VIRTUAL_HOST, RUNTIME, "type.example/of.nobody"])
def test_rule_05_types_that_are_not_served_are_met_with_silence(variant, type_url):
    client = Client(variant, {type_url: {"a": "1"}, CLUSTER: {"a": "1"}})
    assert client.subscribe(type_url, "*", "a") == []
    assert client.closed is None
    assert len(client.subscribe(CLUSTER)) == 1, "and the stream goes on"


@both
@pytest.mark.parametrize("type_url", ADDITIONS)
def test_rule_06_a_name_that_does_not_exist_is_remembered(variant, type_url):
    client = Client(variant, {type_url: {}})
    client.settle(client.subscribe(type_url, "later"))
    (response,) = client.publish({type_url: {"later": "1", "other": "1"}})
    assert response.contents == {"later": "1"}


@both
def test_rule_07_a_name_asked_for_twice_is_sent_once(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}})
    names = {"resource_names": ["a", "a", "*"]} if variant is SOTW else {"resource_names_subscribe": ["a", "a", "*"]}
    (response,) = client.request(CLUSTER, **names)  # parsing it asserts that no name is in it twice
    assert response.contents == {"a": "1"}


@both
def test_rule_07_an_overlay_hides_what_lies_below(variant):
    def snapshot(key, content):
        return Snapshot(AnyScope(key), 1, {CLUSTER: {"a": resource_of(CLUSTER, "a", content)}})

    client = Client(variant)
    client.stream = XdsStream(
        variant, IDENTITY, ProxyView([snapshot("group", "shared"), snapshot("overlay", "its own")])
    )
    (response,) = client.subscribe(CLUSTER)
    assert response.contents == {"a": "its own"}


@both
def test_rule_08_an_answer_is_for_a_whole_response(variant):
    client = Client(variant, {CLUSTER: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(CLUSTER)
    client.nack(response)
    (answer,) = client.answers
    assert {name: resource.version for name, resource in answer.given.items()} == {
        "a": version_of("a", "1"),
        "b": version_of("b", "1"),
    }


@both
def test_rule_08_what_a_rejection_does_not_name_is_sent_again_without_what_it_names(variant):
    client = Client(variant, {CLUSTER: {"good": "1", "bad": "1"}})
    (response,) = client.subscribe(CLUSTER)
    (again,) = client.nack(response, "Error adding/updating cluster(s) bad: no such option")
    assert again.contents == {"good": "1"}
    assert client.nack(again, "something else") == [], "which ends when nothing is left that was not rejected"


@both
def test_rule_08_a_doubt_ends_when_the_version_that_the_client_keeps_is_the_right_one_again(variant):
    tables = {CLUSTER: {"c": "1"}, ROUTE: {"r": "1"}}
    client = Client(variant, tables)
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ROUTE, "r"))
    (bad,) = client.publish({**tables, ROUTE: {"r": "bad"}})
    client.nack(bad)
    client.settle(client.publish(tables))
    assert client.publish({**tables, ROUTE: {"r": "bad"}}) == []
    (removal,) = client.publish({CLUSTER: {}, ROUTE: {"r": "1"}})
    assert client.removes(removal, "c")


class _Context:
    """What a gRPC stream gives its handler."""

    def auth_context(self):
        return {"x509_subject_alternative_name": [IDENTITY.uri.encode()]}

    async def abort(self, status, message):
        raise ConnectionRefusedError(status, message)


@pytest.mark.parametrize("method", ["StreamAggregatedResources", "DeltaAggregatedResources"], ids=["sotw", "delta"])
async def test_rule_09_a_stream_is_refused_until_the_world_is_loaded(method):
    service = DiscoveryService(Publisher(), SimpleNamespace(), Limits(), lambda: None)
    for handlers in service.handlers():
        call = SimpleNamespace(
            method=f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}",
            invocation_metadata=(),
        )
        handler = handlers.service(call)
        if handler is not None:
            break
    with pytest.raises(ConnectionRefusedError) as refused:
        await handler.stream_stream(None, _Context())
    assert refused.value.args[0] is grpc.StatusCode.UNAVAILABLE


@both
def test_rule_10_a_version_outlives_its_stream(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a"))
    client = client.reconnect()
    assert client.subscribe(CLUSTER) == []
    assert client.subscribe(ENDPOINT, "a") == []
    changed = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {"a": "2"}})
    assert [response.type_url for response in changed] == [CLUSTER, ENDPOINT], "and what changes is sent"


# -- state of the world ------------------------------------------------------------------------------------------------


def test_rule_11_an_ack_with_more_names_is_answered_at_the_same_version():
    client = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    (more,) = client.request(ENDPOINT, nonce=response.nonce, resource_names=["a", "b"])
    assert more.contents == {"b": "1"}, "the new one, and not what it holds"
    assert len(client.answers) == 1


def test_rule_11_a_full_state_tells_at_once_that_a_name_does_not_exist():
    client = Client(SOTW, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER, "a"))
    (response,) = client.subscribe(CLUSTER, "missing")
    assert response.contents == {"a": "1"}


def test_rule_12_fewer_names_need_no_answer():
    client = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    assert client.unsubscribe(ENDPOINT, "b") == []


@pytest.mark.parametrize("type_url", sorted(FULL_STATE))
def test_rule_12_fewer_names_are_answered_with_the_full_state(type_url):
    client = Client(SOTW, {type_url: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(type_url, "a", "b"))
    (response,) = client.unsubscribe(type_url, "b")
    assert response.contents == {"a": "1"}


@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT])
def test_rule_13_unsubscribe_then_resubscribe_resends(type_url):
    client = Client(SOTW, {type_url: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(type_url, "a", "b"))
    client.settle(client.unsubscribe(type_url, "b"))
    (response,) = client.subscribe(type_url, "b")
    assert response.contents["b"] == "1"


@pytest.mark.parametrize("type_url", sorted(FULL_STATE))
def test_rule_14_each_response_is_the_full_state(type_url):
    client = Client(SOTW, {type_url: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(type_url))
    (response,) = client.publish({type_url: {"a": "2", "b": "1"}})
    assert response.contents == {"a": "2", "b": "1"}
    client.ack(response)
    (response,) = client.publish({type_url: {"a": "2"}})
    assert response.contents == {"a": "2"}
    client.ack(response)
    (response,) = client.publish({type_url: {}})
    assert response.contents == {}, "which deletes everything"


@pytest.mark.parametrize("type_url", sorted(ADDITIONS.keys() - FULL_STATE - {EXTENSION}))
def test_rule_14_for_other_types_absence_means_nothing(type_url):
    client = Client(SOTW, {type_url: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(type_url, "a", "b"))
    (response,) = client.publish({type_url: {"a": "2", "b": "1"}})
    assert response.contents == {"a": "2"}
    client.ack(response)
    assert client.publish({type_url: {"a": "2"}}) == [], "a removal cannot be said, and is not"
    (response,) = client.publish({type_url: {"a": "2", "b": "1"}})
    assert response.contents == {"b": "1"}, "but whoever comes back is"


def test_rule_15_a_stale_nonce_is_not_answered_but_its_names_count():
    client = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a")
    client.ack(first)
    (second,) = client.publish({ENDPOINT: {"a": "2", "b": "1"}})
    client.names[ENDPOINT] = ["a", "b"]
    assert client.request(ENDPOINT, nonce=first.nonce) == [], "it was sent before the second response arrived"
    (third,) = client.ack(second)
    assert third.contents == {"b": "1"}


def test_rule_15_a_stale_nonce_takes_names_away_too():
    client = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a", "b")
    client.ack(first)
    (second,) = client.publish({ENDPOINT: {"a": "2", "b": "1"}})
    client.names[ENDPOINT] = ["a"]
    assert client.request(ENDPOINT, nonce=first.nonce) == []
    client.ack(second)
    assert client.publish({ENDPOINT: {"a": "2", "b": "2"}}) == []


def test_rule_16_a_retained_version_does_not_hide_names_that_were_added():
    client = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    client = client.reconnect()
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    assert response.contents == {"a": "1", "b": "1"}


def test_rule_16_a_version_covers_what_the_client_was_sent_and_no_more():
    client = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    (bad,) = client.publish({ENDPOINT: {"a": "1", "b": "2"}})
    client.nack(bad)
    client.settle(client.publish({ENDPOINT: {"a": "2", "b": "2"}}))
    client = client.reconnect()
    assert client.held[ENDPOINT] == {"a": "2", "b": "1"}
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    assert response.contents["b"] == "2", "it accepted a version while it held an older b"


@both
def test_rule_17_a_pool_without_exits_has_an_explicit_empty_list(variant):
    pool = Pool(id=IDENTITY.proxy_id, fleet_id=IDENTITY.fleet_id, name="empty", country="de")
    assignment = translate_endpoints(pool, ())
    name = assignment.cluster_name
    resource = make_resource(ENDPOINT, name, assignment.SerializeToString())
    stream = XdsStream(variant, IDENTITY, ProxyView([Snapshot(AnyScope(), 1, {ENDPOINT: {name: resource}})]))
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
def test_rule_18_an_answer_does_not_wait_for_all_names_to_be_asked_for(variant):
    client = Client(variant, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}})
    client.subscribe(CLUSTER)
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.contents == {"a": "1"}


@both
def test_rule_19_what_waits_for_names_since_given_up_is_dropped(variant):
    client = Client(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    assert client.publish({ENDPOINT: {"a": "1", "b": "2"}}) == [], "one response at a time"
    client.unsubscribe(ENDPOINT, "b")
    assert client.ack(response) == []


@both
def test_rule_19_a_rejection_does_not_bring_back_names_since_given_up(variant):
    client = Client(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    client.publish({ENDPOINT: {"a": "1", "b": "2"}})
    client.unsubscribe(ENDPOINT, "b")
    assert client.nack(response) == []


@pytest.mark.parametrize("accepts", [True, False])
def test_rule_19_what_crosses_a_name_given_up_and_asked_for_again_may_have_been_taken_delta(accepts):
    client = Client(DELTA, {ENDPOINT: {"a": "1", "gone": "1"}})
    (response,) = client.subscribe(ENDPOINT, "*")
    client.publish({ENDPOINT: {"a": "1"}})
    client.unsubscribe(ENDPOINT, "*")
    client.subscribe(ENDPOINT, "*")
    said = client.settle(client.ack(response) if accepts else client.nack(response))
    assert [(response.contents, response.removed) for response in said] == [({"a": "1"}, []), ({}, ["gone"])]


def test_rule_19_what_crosses_a_name_given_up_and_asked_for_again_is_sent_again_sotw():
    client = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "b")
    client.request(ENDPOINT, nonce="", resource_names=["b"])
    client.request(ENDPOINT, nonce="", resource_names=["a", "b"])
    (again,) = client.ack(response)
    assert again.contents == {"a": "1"}


def test_rule_19_what_waits_for_a_wildcard_since_given_up_is_dropped_sotw():
    client = Client(SOTW, {CLUSTER: {"c": "1"}, LISTENER: {"a": "1", "b": "1"}})
    (clusters,) = client.subscribe(CLUSTER)
    assert client.subscribe(LISTENER) == [], "listeners wait for the clusters"
    assert client.subscribe(LISTENER, "a") == []
    (listeners,) = client.ack(clusters)
    assert listeners.contents == {"a": "1"}


def test_rule_19_what_waits_for_a_wildcard_since_given_up_is_dropped_delta():
    client = Client(DELTA, {CLUSTER: {"c": "1"}, LISTENER: {"a": "1", "b": "1"}})
    (clusters,) = client.subscribe(CLUSTER)
    assert client.subscribe(LISTENER, "*", "a") == [], "listeners wait for the clusters"
    client.unsubscribe(LISTENER, "*")
    (listeners,) = client.ack(clusters)
    assert listeners.contents == {"a": "1"}


# -- delta -------------------------------------------------------------------------------------------------------------


def test_rule_20_a_stale_nonce_still_changes_the_subscription():
    client = Client(DELTA, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a")
    client.ack(first)
    (more,) = client.request(ENDPOINT, nonce=first.nonce, resource_names_subscribe=["b"])
    assert more.contents == {"b": "1"}
    assert len(client.answers) == 1, "the first answer to a response counts"
    client.ack(more)
    client.request(ENDPOINT, nonce=first.nonce, resource_names_unsubscribe=["b"])
    assert client.publish({ENDPOINT: {"a": "1", "b": "2"}}) == []


def test_rule_21_a_request_of_the_clients_own_accord_has_no_nonce():
    client = Client(DELTA, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a")
    assert client.request(ENDPOINT, resource_names_subscribe=["b"]) == []
    assert client.answers == [], "it acknowledges nothing"
    (more,) = client.ack(first)
    assert more.contents == {"b": "1"}


def test_rule_22_subscribing_again_to_a_name_that_is_held_resends_it():
    client = Client(DELTA, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.contents == {"a": "1"}


def test_rule_22_subscribing_again_to_a_name_that_is_gone_says_so():
    client = Client(DELTA, {ENDPOINT: {"a": "1"}}, grace_s=10)
    client.settle(client.subscribe(ENDPOINT, "a"))
    client.publish({ENDPOINT: {}})
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.removed == ["a"]


def test_rule_22_unsubscribing_then_subscribing_resends():
    client = Client(DELTA, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert client.unsubscribe(ENDPOINT, "a") == []
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.contents == {"a": "1"}


def test_rule_23_subscriptions_accumulate():
    client = Client(DELTA, {ENDPOINT: {"a": "1", "b": "1", "c": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    client.settle(client.subscribe(ENDPOINT, "b"))
    (response,) = client.publish({ENDPOINT: {"a": "2", "b": "2", "c": "2"}})
    assert response.contents == {"a": "2", "b": "2"}


@both
def test_rule_23_the_asterisk_and_names_together(variant):
    client = Client(variant, {CLUSTER: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(CLUSTER, "*", "a", "missing")
    assert response.contents == {"a": "1", "b": "1"}
    assert response.removed == (["missing"] if variant is DELTA else [])
    client.ack(response)
    client.settle(client.unsubscribe(CLUSTER, "*"))
    client.settle(client.publish({CLUSTER: {"a": "2", "b": "2", "missing": "2"}}))
    assert {client.held[CLUSTER].get(name) for name in ("a", "missing")} == {"2"}, "the names outlive the asterisk"
    assert client.held[CLUSTER].get("b") != "2"


def test_rule_23_a_name_keeps_the_legacy_wildcard_until_the_asterisk_is_given_up():
    client = Client(DELTA, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(CLUSTER, "a"))
    (response,) = client.publish({CLUSTER: {"a": "1", "b": "2"}})
    assert response.contents == {"b": "2"}
    client.ack(response)
    assert client.unsubscribe(CLUSTER, "*") == []
    (response,) = client.publish({CLUSTER: {"a": "2", "b": "3"}})
    assert response.contents == {"a": "2"}


def test_rule_23_the_asterisk_again_sends_what_was_given_up():
    client = Client(DELTA, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER, "*", "a"))
    client.unsubscribe(CLUSTER, "*")
    (response,) = client.subscribe(CLUSTER, "*")
    assert response.contents == {"b": "1"}
    client.ack(response)
    assert client.subscribe(CLUSTER, "*") == [], "it is subscribed to already"


@pytest.mark.parametrize("exists", [True, False])
def test_rule_24_giving_up_a_name_under_a_wildcard_is_answered(exists):
    client = Client(DELTA, {CLUSTER: {"a": "1", "b": "1"} if exists else {"b": "1"}})
    client.settle(client.subscribe(CLUSTER, "*", "a"))
    (response,) = client.unsubscribe(CLUSTER, "a")
    assert (response.contents, response.removed) == (({"a": "1"}, []) if exists else ({}, ["a"]))


def test_rule_24_phantom_unsubscribes_are_ignored():
    client = Client(DELTA, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    assert client.request(CLUSTER, resource_names_unsubscribe=["a", "never"]) == []
    assert client.request(ENDPOINT, resource_names_unsubscribe=["never", "*"]) == []
    (response,) = client.publish({CLUSTER: {"a": "2"}})
    assert response.contents == {"a": "2"}, "the wildcard still matches it"


def test_rule_25_a_missing_name_is_said_to_be_missing_and_stays_watched():
    client = Client(DELTA, {ENDPOINT: {}})
    (response,) = client.subscribe(ENDPOINT, "later")
    assert (response.contents, response.removed) == ({}, ["later"])
    client.ack(response)
    assert client.publish({ENDPOINT: {"other": "1"}}) == [], "once is enough"
    (response,) = client.publish({ENDPOINT: {"later": "1"}})
    assert response.contents == {"later": "1"}


def test_rule_25_a_name_that_vanishes_stays_watched():
    client = Client(DELTA, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    (response,) = client.publish({ENDPOINT: {}})
    assert response.removed == ["a"]
    client.ack(response)
    (response,) = client.publish({ENDPOINT: {"a": "1"}})
    assert response.contents == {"a": "1"}


@both
@pytest.mark.parametrize("type_url", [LISTENER, CLUSTER])
def test_rule_26_the_first_wildcard_request_is_answered_even_if_there_is_nothing(variant, type_url):
    client = Client(variant, {})
    (response,) = client.subscribe(type_url)
    assert (response.contents, response.removed) == ({}, [])
    assert client.ack(response) == []
    assert client.publish({}) == []


def test_rule_26_unless_the_client_says_that_it_holds_everything():
    client = Client(DELTA, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client = client.reconnect()
    assert client.subscribe(CLUSTER) == []


def test_rule_27_a_reconnect_sends_what_differs_and_says_what_vanished():
    client = Client(DELTA, {CLUSTER: {"same": "1", "changed": "1", "vanished": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.tables = {CLUSTER: {"same": "1", "changed": "2", "new": "1"}}
    client = client.reconnect()
    said = client.settle(client.subscribe(CLUSTER))
    assert [(response.contents, response.removed) for response in said] == [
        ({"changed": "2", "new": "1"}, []),
        ({}, ["vanished"]),
    ]


def test_rule_27_for_names_too():
    client = Client(DELTA, {ENDPOINT: {"same": "1", "changed": "1", "vanished": "1", "other": "1"}})
    client.settle(client.subscribe(ENDPOINT, "same", "changed", "vanished", "other"))
    client.tables = {ENDPOINT: {"same": "1", "changed": "2", "other": "2"}}
    client = client.reconnect()
    said = client.settle(client.subscribe(ENDPOINT, "same", "changed", "vanished", "new"))
    assert [(response.contents, response.removed) for response in said] == [
        ({"changed": "2"}, ["new"]),
        ({}, ["vanished"]),
    ]


def test_rule_27_a_resource_held_without_a_version_is_held_all_the_same():
    client = Client(DELTA, {CLUSTER: {"a": "1"}})
    versions = {"a": "", "vanished": ""}  # of a server that sends none
    said = client.settle(client.request(CLUSTER, initial_resource_versions=versions))
    assert [(response.contents, response.removed) for response in said] == [({"a": "1"}, []), ({}, ["vanished"])]


def test_rule_27_versions_count_in_the_first_request_alone():
    client = Client(DELTA, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    assert client.request(CLUSTER, initial_resource_versions={"a": "an older one", "vanished": "1"}) == []


@both
def test_rule_28_a_name_is_answered_under_that_name(variant):
    client = Client(variant, {ROUTE: {"a": "1"}})
    (response,) = client.subscribe(ROUTE, "a")  # parsing it asserts that envelope and body agree on the name
    assert list(response.contents) == ["a"]


@both
def test_rule_29_an_extension_is_never_removed_by_the_server(variant):
    client = Client(variant, {EXTENSION: {"a": "1"}})
    client.settle(client.subscribe(EXTENSION, "a"))
    assert client.publish({EXTENSION: {}}) == []
    assert client.wait(3600) == []
    (response,) = client.publish({EXTENSION: {"a": "2"}})
    assert response.contents == {"a": "2"}


@both
def test_rule_29_an_extension_that_is_gone_keeps_its_clusters_until_it_is_given_up(variant):
    client = Client(variant, {CLUSTER: {"c": "1"}, EXTENSION: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(EXTENSION, "a"))
    assert client.publish({CLUSTER: {}, EXTENSION: {}}) == []
    (removal,) = client.unsubscribe(EXTENSION, "a")
    assert client.removes(removal, "c")


@both
def test_rule_30_after_a_rejection_the_older_version_is_sent_when_it_is_to_be_had_again(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.publish({CLUSTER: {"a": "2"}})
    client.nack(response)
    (response,) = client.publish({CLUSTER: {"a": "1"}})
    assert response.contents == {"a": "1"}, "the client may have taken the second all the same"


def test_rule_30_what_was_missing_in_a_rejected_response_is_said_again():
    client = Client(DELTA, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a", "missing")
    assert response.removed == ["missing"]
    (again,) = client.nack(response)
    assert (again.contents, again.removed) == ({}, ["missing"])
    assert client.nack(again) == [], "once"


def test_rule_30_after_a_rejection_the_version_does_not_cover_what_was_rejected_sotw():
    client = Client(SOTW, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.nack(response)
    client = client.reconnect()
    assert client.subscribe(ENDPOINT, "a")[0].contents == {"a": "1"}, "nobody says that it holds it"


def test_rule_31_a_large_delta_response_is_split():
    names = {f"cluster-{number}" for number in range(9)}
    client = Client(DELTA, {CLUSTER: dict.fromkeys(names, "x" * MIB)})
    responses = client.subscribe(CLUSTER)
    assert len(responses) > 1
    assert max(response.bytes_ for response in responses) < 4 * MIB
    assert {name for response in responses for name in response.contents} == names
    assert client.ack(*responses) == []
    assert len(client.answers) == len(responses)


def test_rule_31_a_long_list_of_missing_names_is_split():
    names = {f"{'missing' * 100}-{number}" for number in range(8_000)}
    client = Client(DELTA, {ENDPOINT: {}})
    responses = client.subscribe(ENDPOINT, *names)
    assert max(response.bytes_ for response in responses) < 4 * MIB
    assert {name for response in responses for name in response.removed} == names
    assert client.ack(*responses) == []


def test_rule_31_a_large_state_of_named_resources_is_sent_in_turns():
    names = {f"endpoints-{number}": "x" * MIB for number in range(9)}
    client = Client(SOTW, {ENDPOINT: names})
    responses = client.settle(client.subscribe(ENDPOINT, *names))
    assert len(responses) > 1
    assert max(response.bytes_ for response in responses) < 4 * MIB
    assert client.held[ENDPOINT] == names
    client = client.reconnect()
    assert client.subscribe(ENDPOINT, *names) == [], "and the last version covers them all"


def test_rule_31_a_full_state_is_not_split():
    contents = {f"cluster-{number}": "x" * MIB for number in range(5)}
    client = Client(SOTW, {CLUSTER: contents})
    (response,) = client.subscribe(CLUSTER)
    assert response.contents == contents, "what it leaves out would be deleted"


@both
def test_rule_31_one_resource_above_the_limit_is_sent_alone(variant):
    client = Client(variant, {ENDPOINT: {"small": "x", "large": "x" * 3 * MIB}})
    responses = client.settle(client.subscribe(ENDPOINT, "small", "large"))
    assert [list(response.contents) for response in responses] in ([["small"], ["large"]], [["large"], ["small"]])


# -- order: the whole of it is in test_order.py ------------------------------------------------------------------------


@both
def test_rule_32_additions_go_out_in_order_and_removals_after_the_acks_that_freed_them(variant):
    old = {type_url: {"old": "1"} for type_url in (LISTENER, ROUTE, CLUSTER, ENDPOINT)}
    new = {type_url: {"new": "1"} for type_url in (LISTENER, ROUTE, CLUSTER, ENDPOINT)}
    client = Client(variant, old)
    for type_url, names in ((CLUSTER, ()), (ENDPOINT, ("old", "new")), (LISTENER, ()), (ROUTE, ("old", "new"))):
        client.settle(client.subscribe(type_url, *names))
    said = client.settle(client.publish(new))
    assert list(dict.fromkeys(response.type_url for response in said)) == [CLUSTER, ENDPOINT, LISTENER, ROUTE]
    steps = [(response.type_url, "new" in response.contents, client.removes(response, "old")) for response in said]
    expected = [(CLUSTER, True, False), (ENDPOINT, True, False), (LISTENER, True, False), (ROUTE, True, False)]
    expected += [(LISTENER, variant is SOTW, True)]  # a full state repeats what stays
    expected += [(ROUTE, False, True)] if variant is DELTA else []
    expected += [(CLUSTER, variant is SOTW, True)]
    expected += [(ENDPOINT, False, True)] if variant is DELTA else []
    assert steps == expected


@both
def test_rule_33_a_changed_cluster_is_followed_by_its_endpoints(variant):
    endpoints = {"a": "1", "b": "1"}
    client = Client(variant, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: endpoints})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    clusters, follower = client.publish({CLUSTER: {"a": "2", "b": "1"}, ENDPOINT: endpoints})
    assert clusters.contents["a"] == "2"
    assert (follower.type_url, follower.contents) == (ENDPOINT, {"a": "1"})


@both
def test_rule_33_a_cluster_that_the_client_kept_and_still_holds_is_not_followed_again(variant):
    endpoints = {"a": "1", "b": "1"}
    client = Client(variant, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: endpoints})
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
def test_rule_33_endpoints_under_a_wildcard_follow_too(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "*"))
    _, follower = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {"a": "1"}})
    assert (follower.type_url, follower.contents) == (ENDPOINT, {"a": "1"})


@both
def test_rule_33_endpoints_on_their_way_are_sent_again(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (endpoints,) = client.subscribe(ENDPOINT, "a")
    (clusters,) = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {"a": "1"}})
    (follower,) = client.ack(endpoints)
    assert (clusters.type_url, follower.contents) == (CLUSTER, {"a": "1"})


@both
def test_rule_33_endpoints_follow_a_cluster_that_changed_while_the_client_was_away(variant):
    client = Client(variant, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    client.tables = {CLUSTER: {"a": "2", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}}
    client = client.reconnect()
    (clusters,) = client.subscribe(CLUSTER)
    assert clusters.contents["a"] == "2"
    (endpoints,) = client.subscribe(ENDPOINT, "a", "b")
    assert "a" in endpoints.contents, "Envoy subscribes to endpoints after it has asked for clusters"


@both
def test_rule_34_what_a_client_says_it_can_do_changes_nothing(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}})
    features = b"xds.config.supports-resource-in-sotw"
    unknown_to_us = b"\x52" + bytes([len(features)]) + features  # node.client_features, field 10
    node = Node(id="n").SerializeToString() + unknown_to_us
    field = b"\x12" if variant is SOTW else b"\x0a"
    (response,) = client.receive(field + bytes([len(node)]) + node + _type_url_field(variant, CLUSTER))
    assert response.contents == {"a": "1"}


def _type_url_field(variant: Variant, type_url: str) -> bytes:
    return (b"\x22" if variant is SOTW else b"\x12") + bytes([len(type_url)]) + type_url.encode()
