"""ACKs and NACKs: what the server concludes from them, and what it sends then. Rules 3, 8, 15 and 30 in their corners."""

from __future__ import annotations

import pytest

from tests.protocol.stream_client import DELTA, SOTW, StreamClient, version_of
from xds.protocol.subscription import MAX_NACKED_VERSIONS
from xds.translate.names import CLUSTER, ENDPOINT, LISTENER, ROUTE
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

both = pytest.mark.parametrize("variant", [SOTW, DELTA], ids=["sotw", "delta"])

# -- which response a request answers ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("nonce", ["", "foreign", "999", "0", "1 ", "\u0661"])
def test_foreign_nonce_is_no_answer(variant, nonce):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    client.subscribe(ENDPOINT, "a")
    client.request(ENDPOINT, nonce=nonce)
    client.request(ENDPOINT, nonce=nonce, error_detail={"message": b"no"})
    assert client.answers == []


@both
def test_response_is_answered_once(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.ack(response)
    assert client.ack(response) == []
    assert client.nack(response) == []
    assert [answer.error for answer in client.answers] == [None]
    (changed,) = client.publish({ENDPOINT: {"a": "2"}})
    assert changed.contents == {"a": "2"}


@both
def test_stale_nonce_is_no_answer(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a")
    client.ack(first)
    (second,) = client.publish({ENDPOINT: {"a": "2"}})
    client.nack(first)
    client.ack(first)
    assert len(client.answers) == 1
    client.ack(second)
    assert [(answer.revision, answer.error) for answer in client.answers] == [(1, None), (2, None)]


def test_parts_are_acknowledged_in_any_order():
    contents = {name: name * 1024 * 1024 for name in "abcd"}
    client = StreamClient(DELTA, {ENDPOINT: contents})
    parts = client.subscribe(ENDPOINT, *contents)
    assert len(parts) == 4
    for part in reversed(parts):
        client.request(ENDPOINT, nonce=part.nonce)
    assert [[*answer.resources] for answer in client.answers] == [[*part.contents] for part in reversed(parts)]


def test_next_response_waits_for_all_parts():
    contents = {name: name * 1024 * 1024 for name in "abcd"}
    client = StreamClient(DELTA, {ENDPOINT: contents})
    *parts, last = client.subscribe(ENDPOINT, *contents)
    client.publish({ENDPOINT: {**contents, "a": "2"}})
    assert client.ack(*parts) == []
    (response,) = client.ack(last)
    assert response.contents == {"a": "2"}


@both
def test_answer_has_resources_and_revision_of_its_response(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.publish({CLUSTER: {"a": "1", "b": "2"}})
    client.ack(response)
    answer = client.answers[-1]
    assert {name: resource.version for name, resource in answer.resources.items()} == {"b": version_of("b", "2")}
    assert (answer.type_url, answer.revision, answer.error) == (CLUSTER, 2, None)


# -- rejected versions -----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT])
def test_rejected_version_is_not_sent_after_rollback(variant, type_url):
    client = StreamClient(variant, {type_url: {"a": "good"}})
    client.settle(client.subscribe(type_url, "a"))
    (bad,) = client.publish({type_url: {"a": "bad"}})
    client.nack(bad)
    client.settle(client.publish({type_url: {"a": "good"}}))
    assert client.publish({type_url: {"a": "bad"}}) == []
    (fixed,) = client.publish({type_url: {"a": "fixed"}})
    assert fixed.contents == {"a": "fixed"}


@both
def test_rejected_version_is_not_sent_after_removal(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "bad", "b": "1"}})
    (bad,) = client.subscribe(CLUSTER)
    client.settle(client.nack(bad, "a is bad"))
    client.settle(client.publish({CLUSTER: {"b": "1"}}))
    assert client.publish({CLUSTER: {"a": "bad", "b": "1"}}) == []


@both
def test_several_rejected_versions_are_remembered(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "0"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    bad = [str(number) for number in range(1, MAX_NACKED_VERSIONS + 1)]
    for content in bad:
        (response,) = client.publish({ENDPOINT: {"a": content}})
        client.nack(response)
    for content in bad:
        assert client.publish({ENDPOINT: {"a": content}}) == []


@both
def test_client_that_always_nacks_costs_bounded_memory(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "0"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    for number in range(1, 10 * MAX_NACKED_VERSIONS):
        client.nack(response)
        (response,) = client.publish({ENDPOINT: {"a": str(number)}})
    (subscription,) = client.stream._subscriptions.values()
    assert len(subscription.nacked["a"]) == MAX_NACKED_VERSIONS
    assert len(subscription.in_flight) == 1


@both
def test_nack_may_subscribe_to_more_names(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    names = {"resource_names": ["a", "b"]} if variant is SOTW else {"resource_names_subscribe": ["b"]}
    (more,) = client.request(ENDPOINT, nonce=response.nonce, error_detail={"message": b"no"}, **names)
    assert more.contents == {"b": "1"}


@both
def test_newer_version_is_sent_after_nack(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.publish({ENDPOINT: {"a": "2"}})
    (newer,) = client.nack(response)
    assert newer.contents == {"a": "2"}


@both
def test_rejected_endpoints_do_not_follow_changed_cluster(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a"))
    (bad,) = client.publish({CLUSTER: {"a": "1"}, ENDPOINT: {"a": "bad"}})
    client.nack(bad)
    (clusters,) = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {"a": "bad"}})
    assert clusters.type_url == CLUSTER


@both
@pytest.mark.parametrize(
    ("error", "at_fault"),
    [
        ("Error adding/updating cluster(s) pool/1: no such option", {"pool/1"}),
        ("Error adding/updating cluster(s) pool/10, pool/1: no", {"pool/1", "pool/10"}),
        ("pool/100 and pool are none of them", {"pool/1", "pool/10", "a"}),
        ("the culprit is 'a'.", {"a"}),
        ("", {"pool/1", "pool/10", "a"}),
        ("x" * 100_000 + " a", {"pool/1", "pool/10", "a"}),  # the message is cut before the name
    ],
)
def test_nack_faults_named_resources_or_all(variant, error, at_fault):
    client = StreamClient(variant, {CLUSTER: {"pool/1": "1", "pool/10": "1", "a": "1"}})
    (response,) = client.subscribe(CLUSTER)
    again = client.nack(response, error)
    assert client.answers[0].at_fault == at_fault
    assert [name for response in again for name in sorted(response.contents)] == sorted(
        response.contents.keys() - at_fault
    )


@both
def test_ack_has_nothing_at_fault(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    assert [answer.at_fault for answer in client.answers] == [frozenset()]


CUT_INSIDE_CHARACTER = "Error adding/updating cluster(s) bad: unknown field 'é'".encode()[:-2]
"""An error as Envoy cuts it: by bytes, here after the first of the two of a character."""


def with_error(variant, response, error: bytes) -> bytes:
    """Encode a NACK of a response; no class writes an error that is not UTF-8."""
    request = DeltaDiscoveryRequest if variant is DELTA else DiscoveryRequest
    status = b"\x12" + bytes([len(error)]) + error  # google.rpc.Status.message
    error_detail = (b"\x3a" if variant is DELTA else b"\x32") + bytes([len(status)]) + status
    message = request(type_url=response.type_url, response_nonce=response.nonce)
    return message.SerializeToString() + error_detail


@both
def test_nack_cut_inside_a_character_is_read(variant):
    client = StreamClient(variant, {CLUSTER: {"good": "1", "bad": "1"}})
    (response,) = client.subscribe(CLUSTER)
    (again,) = client.receive(with_error(variant, response, CUT_INSIDE_CHARACTER))
    assert client.closed is None
    (answer,) = client.answers
    assert answer.error == "Error adding/updating cluster(s) bad: unknown field '\ufffd"
    assert (answer.at_fault, again.contents) == ({"bad"}, {"good": "1"})


@both
def test_node_that_is_not_utf8_is_accepted(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}})
    node = b"\x0a\x02\xc3\x28"  # node.id, which Envoy takes unchecked from its command line
    field = b"\x0a" if variant is DELTA else b"\x12"
    message = DeltaDiscoveryRequest if variant is DELTA else DiscoveryRequest
    (response,) = client.receive(field + bytes([len(node)]) + node + message(type_url=CLUSTER).SerializeToString())
    assert response.contents == {"a": "1"}


# -- full states after a rejection -------------------------------------------------------------------------------------


def test_full_state_after_nack_repeats_accepted_version():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (bad,) = client.publish({CLUSTER: {"a": "bad", "b": "1"}})
    client.nack(bad)
    (state,) = client.publish({CLUSTER: {"a": "bad", "b": "2"}})
    assert state.contents == {"a": "1", "b": "2"}, "a is kept: the client deletes what a full state leaves out"


def test_bad_resource_does_not_withhold_others_from_new_client():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1", "b": "1", "bad": "1"}})
    (everything,) = client.subscribe(CLUSTER)
    (state,) = client.nack(everything, "Error adding/updating cluster(s) bad: no such thing")
    assert state.contents == {"a": "1", "b": "1"}
    client.ack(state)
    assert client.publish({CLUSTER: {"a": "1", "b": "1"}}) == [], "the bad one was never accepted"


def test_repeated_uncertain_cluster_is_followed_by_endpoints():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    clusters, followers = client.publish({CLUSTER: {"a": "bad", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}})
    client.ack(followers)
    client.nack(clusters)
    _, followers = client.publish({CLUSTER: {"a": "bad", "b": "2"}, ENDPOINT: {"a": "1", "b": "1"}})
    assert followers.contents == {"a": "1", "b": "1"}, "if the client took the bad one, the older one warms again"


def test_full_state_omits_name_removed_while_resubscribed():
    client = StreamClient(SOTW, {LISTENER: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(LISTENER, "a")
    client.request(LISTENER, nonce="", resource_names=["b"])
    client.request(LISTENER, nonce="", resource_names=["a", "b"])
    client.names[LISTENER] = ["a", "b"]
    client.publish({LISTENER: {"b": "1"}})
    (state,) = client.ack(first)
    assert state.contents == {"b": "1"}


def test_nack_of_resubscribed_name_does_not_block_it():
    client = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a", "b")
    client.request(ENDPOINT, nonce="", resource_names=["b"])
    client.request(ENDPOINT, nonce="", resource_names=["a", "b"])
    (again,) = client.nack(first)
    assert again.contents == {"a": "1"}


# -- subscriptions that change while a response is in flight ----------------------------------------------------------


@both
def test_unsubscribed_name_gets_no_removal(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    client.settle(client.unsubscribe(ENDPOINT, "a"))
    assert client.publish({ENDPOINT: {"b": "1"}}) == []


def test_missing_name_under_wildcard_is_forgotten_after_ack():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER, "*", "missing"))
    client.settle(client.unsubscribe(CLUSTER, "missing"))
    (subscription,) = client.stream._subscriptions.values()
    assert subscription.client_versions.keys() == {"a"}


def test_removed_name_under_wildcard_is_forgotten_after_ack():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (removal,) = client.publish({CLUSTER: {"a": "1"}})
    (subscription,) = client.stream._subscriptions.values()
    assert "b" in subscription.client_versions
    client.ack(removal)
    assert "b" not in subscription.client_versions


def test_unsubscribed_wildcard_needs_no_response():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1"}, LISTENER: {}})
    (clusters,) = client.subscribe(CLUSTER)
    client.subscribe(LISTENER, "*")
    client.unsubscribe(LISTENER, "*")
    assert client.ack(clusters) == []


@both
def test_missing_route_is_sent_once_it_exists(variant):
    client = StreamClient(variant, {CLUSTER: {"c": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ROUTE, "r"))
    (routes,) = client.publish({CLUSTER: {"c": "1"}, ROUTE: {"r": "1"}})
    assert routes.contents == {"r": "1"}


# -- resuming ----------------------------------------------------------------------------------------------------------


@both
def test_resuming_unchanged_world_sends_nothing(variant):
    tables = {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}, LISTENER: {"l": "1"}, ROUTE: {"r": "1"}}
    client = StreamClient(variant, tables)
    subscriptions = ((CLUSTER, ()), (ENDPOINT, ("a",)), (LISTENER, ()), (ROUTE, ("r",)))
    for type_url, names in subscriptions:
        client.settle(client.subscribe(type_url, *names))
    client = client.reconnect()
    responses = [client.settle(client.subscribe(type_url, *names)) for type_url, names in subscriptions]
    repeated = [] if variant is DELTA else [ENDPOINT, ROUTE]  # a version is no evidence for resources by name (rule 16)
    assert [response.type_url for each in responses for response in each] == repeated
    assert client.publish(tables, known=False) == []


def test_full_state_after_resuming_has_resumed_resources():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client = client.reconnect()
    client.subscribe(CLUSTER)
    (state,) = client.publish({CLUSTER: {"a": "2", "b": "1"}})
    assert state.contents == {"a": "2", "b": "1"}


def test_foreign_version_does_not_resume():
    client = StreamClient(SOTW, {CLUSTER: {"a": "1"}})
    (response,) = client.request(CLUSTER, version_info="of another server")
    assert response.contents == {"a": "1"}


def test_initial_versions_of_unsubscribed_names_are_ignored():
    client = StreamClient(DELTA, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.request(
        ENDPOINT,
        resource_names_subscribe=["a"],
        initial_resource_versions={"b": version_of("b", "1"), "vanished": "1"},
    )
    assert (response.contents, response.removed) == ({"a": "1"}, [])


def test_resuming_all_resources_gets_no_empty_response():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1"}})
    client.held[CLUSTER] = {"a": "1"}
    assert client.subscribe(CLUSTER, "*") == []


def test_versions_depend_on_content_alone():
    one, other = (
        StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "1"}}),
        StreamClient(SOTW, {ENDPOINT: {"b": "1", "a": "1"}}),
    )
    (first,), (second,) = one.subscribe(ENDPOINT, "a", "b"), other.subscribe(ENDPOINT, "b", "a")
    assert first.version == second.version
    (third,) = StreamClient(SOTW, {ENDPOINT: {"a": "1", "b": "2"}}).subscribe(ENDPOINT, "a", "b")
    assert third.version != first.version


def test_system_version_of_delta_response_is_revision():
    client = StreamClient(DELTA, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.publish({CLUSTER: {"a": "2"}})
    assert response.version == "2"
