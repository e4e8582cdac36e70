"""ACKs and NACKs: what the server concludes from them, and what it sends then. Rules 3, 8, 15 and 30 in their corners."""

from __future__ import annotations

import pytest

from tests.protocol.client import DELTA, SOTW, Client, version_of
from xds.protocol.subscription import MAX_NACKED_VERSIONS
from xds.translate.names import CLUSTER, ENDPOINT, LISTENER, ROUTE

both = pytest.mark.parametrize("variant", [SOTW, DELTA], ids=["sotw", "delta"])

# -- which response a request answers ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("nonce", ["", "foreign", "999", "0", "1 ", "\u0661"])
def test_a_foreign_nonce_answers_nothing(variant, nonce):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    client.subscribe(ENDPOINT, "a")
    client.request(ENDPOINT, nonce=nonce)
    client.request(ENDPOINT, nonce=nonce, error_detail={"message": "no"})
    assert client.answers == []


@both
def test_a_response_is_answered_once(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.ack(response)
    assert client.ack(response) == []
    assert client.nack(response) == []
    assert [answer.error for answer in client.answers] == [None]
    (changed,) = client.publish({ENDPOINT: {"a": "2"}})
    assert changed.contents == {"a": "2"}


@both
def test_a_stale_nonce_answers_nothing(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a")
    client.ack(first)
    (second,) = client.publish({ENDPOINT: {"a": "2"}})
    client.nack(first)
    client.ack(first)
    assert len(client.answers) == 1
    client.ack(second)
    assert [(answer.revision, answer.error) for answer in client.answers] == [(1, None), (2, None)]


def test_a_response_in_parts_is_answered_part_by_part_in_any_order():
    contents = {name: name * 1024 * 1024 for name in "abcd"}
    client = Client(DELTA, {ENDPOINT: contents})
    parts = client.subscribe(ENDPOINT, *contents)
    assert len(parts) == 4
    for part in reversed(parts):
        client.request(ENDPOINT, nonce=part.nonce)
    assert [[*answer.resources] for answer in client.answers] == [[*part.contents] for part in reversed(parts)]


def test_nothing_is_sent_until_all_parts_are_answered():
    contents = {name: name * 1024 * 1024 for name in "abcd"}
    client = Client(DELTA, {ENDPOINT: contents})
    *parts, last = client.subscribe(ENDPOINT, *contents)
    client.publish({ENDPOINT: {**contents, "a": "2"}})
    assert client.ack(*parts) == []
    (response,) = client.ack(last)
    assert response.contents == {"a": "2"}


@both
def test_an_answer_tells_what_was_in_the_response_and_of_which_revision(variant):
    client = Client(variant, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.publish({CLUSTER: {"a": "1", "b": "2"}})
    client.ack(response)
    answer = client.answers[-1]
    assert {name: resource.version for name, resource in answer.resources.items()} == {"b": version_of("b", "2")}
    assert (answer.type_url, answer.revision, answer.error) == (CLUSTER, 2, None)


# -- what a rejected version is sent after -----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT])
def test_a_version_that_was_rejected_once_is_not_sent_after_a_rollback_either(variant, type_url):
    client = Client(variant, {type_url: {"a": "good"}})
    client.settle(client.subscribe(type_url, "a"))
    (bad,) = client.publish({type_url: {"a": "bad"}})
    client.nack(bad)
    client.settle(client.publish({type_url: {"a": "good"}}))
    assert client.publish({type_url: {"a": "bad"}}) == []
    (mended,) = client.publish({type_url: {"a": "mended"}})
    assert mended.contents == {"a": "mended"}


@both
def test_a_version_that_was_rejected_is_not_sent_after_it_was_gone_for_a_while(variant):
    client = Client(variant, {CLUSTER: {"a": "bad", "b": "1"}})
    (bad,) = client.subscribe(CLUSTER)
    client.settle(client.nack(bad, "a is bad"))
    client.settle(client.publish({CLUSTER: {"b": "1"}}))
    assert client.publish({CLUSTER: {"a": "bad", "b": "1"}}) == []


@both
def test_several_versions_of_a_name_are_remembered_as_rejected(variant):
    client = Client(variant, {ENDPOINT: {"a": "0"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    bad = [str(number) for number in range(1, MAX_NACKED_VERSIONS + 1)]
    for content in bad:
        (response,) = client.publish({ENDPOINT: {"a": content}})
        client.nack(response)
    for content in bad:
        assert client.publish({ENDPOINT: {"a": content}}) == []


@both
def test_a_client_that_rejects_for_ever_costs_bounded_memory(variant):
    client = Client(variant, {ENDPOINT: {"a": "0"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    for number in range(1, 10 * MAX_NACKED_VERSIONS):
        client.nack(response)
        (response,) = client.publish({ENDPOINT: {"a": str(number)}})
    (subscription,) = client.stream._subscriptions.values()
    assert len(subscription.nacked["a"]) == MAX_NACKED_VERSIONS
    assert len(subscription.in_flight) == 1


@both
def test_a_rejection_may_come_with_more_names(variant):
    client = Client(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    names = {"resource_names": ["a", "b"]} if variant is SOTW else {"resource_names_subscribe": ["b"]}
    (more,) = client.request(ENDPOINT, nonce=response.nonce, error_detail={"message": "no"}, **names)
    assert more.contents == {"b": "1"}


@both
def test_a_newer_version_that_came_meanwhile_is_sent_after_a_rejection(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.publish({ENDPOINT: {"a": "2"}})
    (newer,) = client.nack(response)
    assert newer.contents == {"a": "2"}


@both
def test_a_rejected_change_of_endpoints_is_not_repeated_because_its_cluster_changed(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
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
        ("x" * 100_000 + " a", {"pool/1", "pool/10", "a"}),  # nobody reads that far
    ],
)
def test_a_rejection_is_laid_to_what_it_names_or_else_to_all(variant, error, at_fault):
    client = Client(variant, {CLUSTER: {"pool/1": "1", "pool/10": "1", "a": "1"}})
    (response,) = client.subscribe(CLUSTER)
    again = client.nack(response, error)
    assert client.answers[0].at_fault == at_fault
    assert [name for response in again for name in sorted(response.contents)] == sorted(
        response.contents.keys() - at_fault
    )


@both
def test_nobody_is_at_fault_in_what_is_accepted(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    assert [answer.at_fault for answer in client.answers] == [frozenset()]


# -- full states after a rejection -------------------------------------------------------------------------------------


def test_a_full_state_after_a_rejection_repeats_what_was_accepted_last():
    client = Client(SOTW, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (bad,) = client.publish({CLUSTER: {"a": "bad", "b": "1"}})
    client.nack(bad)
    (state,) = client.publish({CLUSTER: {"a": "bad", "b": "2"}})
    assert state.contents == {"a": "1", "b": "2"}, "which keeps a: what is missing in a full state is deleted"


def test_one_bad_resource_does_not_take_the_others_from_a_fresh_client():
    client = Client(SOTW, {CLUSTER: {"a": "1", "b": "1", "bad": "1"}})
    (everything,) = client.subscribe(CLUSTER)
    (state,) = client.nack(everything, "Error adding/updating cluster(s) bad: no such thing")
    assert state.contents == {"a": "1", "b": "1"}
    client.ack(state)
    assert client.publish({CLUSTER: {"a": "1", "b": "1"}}) == [], "the bad one is gone, and was never there"


def test_what_a_rejection_leaves_in_doubt_is_followed_by_its_endpoints_when_the_state_repeats_it():
    client = Client(SOTW, {CLUSTER: {"a": "1", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    clusters, followers = client.publish({CLUSTER: {"a": "bad", "b": "1"}, ENDPOINT: {"a": "1", "b": "1"}})
    client.ack(followers)
    client.nack(clusters)
    _, followers = client.publish({CLUSTER: {"a": "bad", "b": "2"}, ENDPOINT: {"a": "1", "b": "1"}})
    assert followers.contents == {"a": "1", "b": "1"}, "if it had taken the bad one, it warms the older one again"


def test_a_state_does_not_repeat_what_vanished_while_it_was_asked_for_again():
    client = Client(SOTW, {LISTENER: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(LISTENER, "a")
    client.request(LISTENER, nonce="", resource_names=["b"])
    client.request(LISTENER, nonce="", resource_names=["a", "b"])
    client.names[LISTENER] = ["a", "b"]
    client.publish({LISTENER: {"b": "1"}})
    (state,) = client.ack(first)
    assert state.contents == {"b": "1"}


def test_a_rejection_of_what_was_given_up_and_asked_for_again_is_not_held_against_it():
    client = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}})
    (first,) = client.subscribe(ENDPOINT, "a", "b")
    client.request(ENDPOINT, nonce="", resource_names=["b"])
    client.request(ENDPOINT, nonce="", resource_names=["a", "b"])
    (again,) = client.nack(first)
    assert again.contents == {"a": "1"}


# -- subscriptions that change while a response is on its way ----------------------------------------------------------


@both
def test_what_is_given_up_is_not_removed_when_it_vanishes(variant):
    client = Client(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "b"))
    client.settle(client.unsubscribe(ENDPOINT, "a"))
    assert client.publish({ENDPOINT: {"b": "1"}}) == []


def test_a_name_given_up_under_a_wildcard_and_missing_is_forgotten_once_that_is_acknowledged():
    client = Client(DELTA, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER, "*", "missing"))
    client.settle(client.unsubscribe(CLUSTER, "missing"))
    (subscription,) = client.stream._subscriptions.values()
    assert subscription.client_versions.keys() == {"a"}


def test_names_that_vanish_under_a_wildcard_are_forgotten_once_that_is_acknowledged():
    client = Client(DELTA, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (removal,) = client.publish({CLUSTER: {"a": "1"}})
    (subscription,) = client.stream._subscriptions.values()
    assert "b" in subscription.client_versions
    client.ack(removal)
    assert "b" not in subscription.client_versions


def test_the_wildcard_given_up_while_its_answer_waits_needs_none():
    client = Client(DELTA, {CLUSTER: {"a": "1"}, LISTENER: {}})
    (clusters,) = client.subscribe(CLUSTER)
    client.subscribe(LISTENER, "*")
    client.unsubscribe(LISTENER, "*")
    assert client.ack(clusters) == []


def test_endpoints_that_vanish_together_with_a_change_of_their_cluster_wait_for_it():
    client = Client(SOTW, {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ENDPOINT, "a"))
    (clusters,) = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {}})
    assert clusters.type_url == CLUSTER
    assert client.ack(clusters) == []
    (endpoints,) = client.publish({CLUSTER: {"a": "2"}, ENDPOINT: {"a": "1"}})
    assert endpoints.contents == {"a": "1"}


@both
def test_a_route_that_was_missing_arrives_when_it_exists(variant):
    client = Client(variant, {CLUSTER: {"c": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client.settle(client.subscribe(ROUTE, "r"))
    (routes,) = client.publish({CLUSTER: {"c": "1"}, ROUTE: {"r": "1"}})
    assert routes.contents == {"r": "1"}


# -- resuming ----------------------------------------------------------------------------------------------------------


@both
def test_a_client_that_resumes_an_unchanged_world_is_sent_nothing_at_all(variant):
    tables = {CLUSTER: {"a": "1"}, ENDPOINT: {"a": "1"}, LISTENER: {"l": "1"}, ROUTE: {"r": "1"}}
    client = Client(variant, tables)
    subscriptions = ((CLUSTER, ()), (ENDPOINT, ("a",)), (LISTENER, ()), (ROUTE, ("r",)))
    for type_url, names in subscriptions:
        client.settle(client.subscribe(type_url, *names))
    client = client.reconnect()
    assert [client.subscribe(type_url, *names) for type_url, names in subscriptions] == [[], [], [], []]
    assert client.publish(tables, known=False) == []


def test_a_full_state_after_resuming_holds_what_was_resumed():
    client = Client(SOTW, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    client = client.reconnect()
    client.subscribe(CLUSTER)
    (state,) = client.publish({CLUSTER: {"a": "2", "b": "1"}})
    assert state.contents == {"a": "2", "b": "1"}


def test_resuming_with_names_that_do_not_exist_does_not_make_them_held():
    client = Client(SOTW, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a", "missing"))
    client = client.reconnect()
    assert client.subscribe(ENDPOINT, "a", "missing") == []
    (response,) = client.publish({ENDPOINT: {"a": "1", "missing": "1"}})
    assert response.contents == {"missing": "1"}


def test_a_version_of_another_state_is_no_reason_to_be_silent():
    client = Client(SOTW, {CLUSTER: {"a": "1"}})
    (response,) = client.request(CLUSTER, version_info="of another server")
    assert response.contents == {"a": "1"}


def test_versions_of_names_that_are_not_asked_for_are_ignored():
    client = Client(DELTA, {ENDPOINT: {"a": "1", "b": "1"}})
    (response,) = client.request(
        ENDPOINT,
        resource_names_subscribe=["a"],
        initial_resource_versions={"b": version_of("b", "1"), "vanished": "1"},
    )
    assert (response.contents, response.removed) == ({"a": "1"}, [])


def test_a_client_that_resumes_with_something_is_not_told_that_there_is_nothing_else():
    client = Client(DELTA, {CLUSTER: {"a": "1"}})
    client.held[CLUSTER] = {"a": "1"}
    assert client.subscribe(CLUSTER, "*") == []


def test_versions_are_those_of_the_content_on_every_replica():
    one, other = Client(SOTW, {ENDPOINT: {"a": "1", "b": "1"}}), Client(SOTW, {ENDPOINT: {"b": "1", "a": "1"}})
    (first,), (second,) = one.subscribe(ENDPOINT, "a", "b"), other.subscribe(ENDPOINT, "b", "a")
    assert first.version == second.version
    (third,) = Client(SOTW, {ENDPOINT: {"a": "1", "b": "2"}}).subscribe(ENDPOINT, "a", "b")
    assert third.version != first.version


def test_the_system_version_of_a_delta_response_is_the_revision():
    client = Client(DELTA, {CLUSTER: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.publish({CLUSTER: {"a": "2"}})
    assert response.version == "2"
