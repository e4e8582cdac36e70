"""Make before break on streams that begin in the middle: a client that warms a cluster asks for no clusters until it is warm."""

from __future__ import annotations

import pytest

from tests.protocol.stream_client import DELTA, SOTW, StreamClient
from xds.translate.names import CLUSTER, ENDPOINT, GATEWAY_LISTENER, GATEWAY_ROUTES, LISTENER, ROUTE
from xds.wire.endpoint_pb2 import ClusterLoadAssignment

both = pytest.mark.parametrize("variant", [SOTW, DELTA])
OLD, NEW = (f"pool/00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))
BEFORE = {CLUSTER: {OLD: "1"}, ENDPOINT: {OLD: "1"}, LISTENER: {"l": "1"}, ROUTE: {"r": f"to {OLD}"}}
AFTER = {
    **BEFORE,
    CLUSTER: {OLD: "1", NEW: "1"},
    ENDPOINT: {OLD: "1", NEW: "1"},
    ROUTE: {"r": f"to {OLD} and {NEW}"},
}
TO_OLD = {**AFTER, ROUTE: {"r": f"to {OLD} by another way"}}
NAMES = {CLUSTER: (), ENDPOINT: (OLD, NEW), LISTENER: (), ROUTE: ("r",)}


def connected(variant, tables=BEFORE, types=tuple(NAMES), **more):
    """Return a client that subscribed to these types, as an Envoy does, and accepted everything."""
    client = StreamClient(variant, tables, **more)
    for type_url in types:
        client.settle(client.subscribe(type_url, *NAMES[type_url]))
    return client


def warming(variant, tables, **more):
    """Return a client with a new stream and a cluster that warms: it asks for all types except clusters."""
    client = connected(variant, **more)
    client.tables = tables
    client = client.reconnect()
    answers = [
        each for type_url in (ENDPOINT, LISTENER, ROUTE) for each in client.subscribe(type_url, *NAMES[type_url])
    ]
    return client, client.settle(answers)


def types_of(responses):
    return [response.type_url for response in responses]


# -- routes wait for their clusters ------------------------------------------------------------------------------------


@both
def test_route_waits_for_clusters_of_warming_client(variant):
    client, answers = warming(variant, AFTER)
    assert ROUTE not in types_of(answers)
    clusters = client.subscribe(CLUSTER)
    assert ROUTE not in types_of(clusters)
    assert ROUTE in types_of(client.ack(*clusters))


@both
def test_route_published_while_client_warms_waits(variant):
    client, _ = warming(variant, BEFORE)
    assert ROUTE not in types_of(client.publish(AFTER))
    clusters = client.subscribe(CLUSTER)
    assert ROUTE not in types_of(clusters)
    assert ROUTE in types_of(client.ack(*clusters))


@both
def test_route_of_held_clusters_waits_for_no_other_cluster(variant):
    client = connected(variant)
    assert types_of(client.publish({**AFTER, ROUTE: BEFORE[ROUTE]}))[0] == CLUSTER
    assert types_of(client.publish(TO_OLD)) == [ROUTE], "the new cluster may warm for long"


@both
def test_route_of_changed_cluster_does_not_wait(variant):
    client = connected(variant)
    sent = client.publish({**BEFORE, CLUSTER: {OLD: "2"}, ROUTE: {"r": f"otherwise to {OLD}"}})
    assert types_of(sent) == [CLUSTER, ENDPOINT, ROUTE], "the client has the cluster in an older version"


@both
def test_route_waits_while_new_cluster_is_in_flight(variant):
    client = connected(variant)
    sent = client.publish(AFTER)
    assert ROUTE not in types_of(sent)
    assert ROUTE not in types_of(client.publish({**AFTER, ROUTE: {"r": f"to {NEW}"}}))
    (routes,) = [each for each in client.ack(*sent) if each.type_url == ROUTE]
    assert routes.contents == {"r": f"to {NEW}"}


@both
def test_listener_waits_for_clusters_of_its_routes(variant):
    client = connected(variant, {CLUSTER: {}, LISTENER: {}}, types=(CLUSTER, LISTENER))
    (sent,) = client.publish({**AFTER, LISTENER: {GATEWAY_LISTENER: "1"}, ROUTE: {GATEWAY_ROUTES: f"to {NEW}"}})
    assert sent.type_url == CLUSTER
    assert types_of(client.ack(sent)) == [LISTENER]


@both
def test_listener_waits_for_clusters_that_it_names(variant):
    client = connected(variant)
    named = {**AFTER, ROUTE: BEFORE[ROUTE], LISTENER: {"l": "1", "new": f"to {NEW}"}}
    sent = client.publish(named)
    assert LISTENER not in types_of(sent)
    assert LISTENER in types_of(client.ack(*sent))


def test_full_state_of_listeners_is_not_sent_in_parts():
    client, _ = warming(SOTW, {**AFTER, LISTENER: {"l": "2", "new": f"to {NEW}"}})
    assert client.held[LISTENER] == {"l": "1"}, "a full state without the new one would lack nothing, but comes twice"
    sent = client.settle(client.subscribe(CLUSTER))
    assert [each.contents for each in sent if each.type_url == LISTENER] == [{"l": "2", "new": f"to {NEW}"}]


@both
def test_route_does_not_wait_for_rejected_cluster(variant):
    client = connected(variant)
    clusters, *others = client.publish(AFTER)
    client.ack(*others)
    assert ROUTE in types_of(client.nack(clusters, NEW)), (
        "the cluster is not sent again, so that nothing would end the wait"
    )


@both
def test_route_waits_again_for_fixed_cluster(variant):
    client = connected(variant)
    clusters, *others = client.publish({**AFTER, ROUTE: BEFORE[ROUTE]})
    client.ack(*others)
    client.nack(clusters, NEW)
    fixed = client.publish({**AFTER, CLUSTER: {OLD: "1", NEW: "2"}})
    assert ROUTE not in types_of(fixed)
    assert ROUTE in types_of(client.ack(*fixed))


@both
def test_waiting_route_keeps_clusters_of_older_route(variant):
    client = connected(variant)
    clusters, *others = client.publish({**AFTER, CLUSTER: {NEW: "1"}, ROUTE: {"r": f"to {NEW}"}})
    client.ack(*others)
    assert not client.removes(clusters, OLD)
    assert client.wait(3600) == []
    (routes,) = client.ack(clusters)
    assert any(client.removes(each, OLD) for each in client.ack(routes))


# -- waits that end ----------------------------------------------------------------------------------------------------


@both
def test_client_that_names_its_listeners_gets_routes_first(variant):
    client = StreamClient(variant, AFTER)
    client.settle(client.subscribe(LISTENER, "l"))
    client.settle(client.subscribe(ROUTE, "r"))
    assert client.held[ROUTE] == AFTER[ROUTE], "gRPC asks for the clusters that it reads in routes"
    client.tables = {**AFTER, ROUTE: {"r": f"to {NEW}"}}
    client = client.reconnect()
    client.settle(client.subscribe(LISTENER, "l"))
    client.settle(client.subscribe(ROUTE, "r"))
    assert client.held[ROUTE] == client.tables[ROUTE]


@both
def test_route_does_not_wait_for_clusters_without_subscription(variant):
    client = StreamClient(variant, BEFORE)
    for type_url, name in ((CLUSTER, OLD), (ROUTE, "r")):
        client.settle(client.subscribe(type_url, name))
    assert types_of(client.publish(AFTER)) == [ROUTE]


@both
def test_stream_of_one_type_waits_for_nothing(variant):
    client = StreamClient(variant, BEFORE, only=ROUTE)
    client.settle(client.subscribe(ROUTE, "r"))
    assert types_of(client.publish(AFTER)) == [ROUTE]


@both
def test_new_client_without_clusters_gets_routes_at_once(variant):
    client = connected(variant, types=(LISTENER, ROUTE))
    assert client.held[ROUTE] == BEFORE[ROUTE]
    assert types_of(client.publish(AFTER)) == [ROUTE]


@both
def test_reconnected_client_without_clusters_gets_routes_in_time(variant):
    client, _ = warming(variant, AFTER)
    client.now = client.stream.wake_at - 0.1
    assert client.wait(0) == []
    routes = client.wait(0.1)
    assert types_of(routes) == [ROUTE], "no cluster warms for longer, so that it asks for none here"
    client.ack(*routes)
    assert types_of(client.settle(client.publish(TO_OLD))) == [ROUTE]


# -- endpoints of clusters that are deleted ----------------------------------------------------------------------------


def is_empty(response, name):
    """Return whether a response takes all endpoints of a cluster away."""
    assignment = ClusterLoadAssignment.FromString(response.bodies[name]) if name in response.bodies else None
    return assignment is not None and assignment.cluster_name == name and not assignment.endpoints


@both
def test_endpoints_are_emptied_while_their_cluster_is_kept(variant):
    client = connected(variant, AFTER)
    (emptied,) = client.publish({**AFTER, ENDPOINT: {OLD: "1"}})
    assert is_empty(emptied, NEW)
    assert client.ack(emptied) == []
    assert client.wait(3600) == []


@both
def test_endpoints_that_never_were_are_empty_for_existing_cluster(variant):
    client = StreamClient(variant, {**AFTER, ENDPOINT: {OLD: "1"}})
    client.settle(client.subscribe(CLUSTER))
    (response,) = client.subscribe(ENDPOINT, NEW)
    assert is_empty(response, NEW), "Envoy would wait for them for 15 s"


@both
def test_deleted_cluster_loses_endpoints_at_once_and_is_removed_later(variant):
    client = connected(variant, AFTER, grace_s=5)
    sent = client.publish(BEFORE)
    assert types_of(sent) == [ENDPOINT, ROUTE]
    assert is_empty(sent[0], NEW)
    assert client.ack(*sent) == []
    (removal,) = client.wait(5)
    assert client.removes(removal, NEW)
    assert client.ack(removal) == []
    assert [each.removed for each in client.wait(5)] == ([[NEW]] if variant is DELTA else [])


@both
def test_endpoints_are_not_removed_before_cluster_that_left_later(variant):
    client = connected(variant, AFTER, grace_s=5)
    client.settle(client.publish({**AFTER, ENDPOINT: {OLD: "1"}}))
    client.wait(4)
    routes = client.publish(BEFORE)
    assert types_of(routes) == [ROUTE]
    assert client.wait(60) == [], "the route was not accepted yet"
    client.ack(*routes)
    (removal,) = client.wait(5)
    assert removal.type_url == CLUSTER
    assert client.removes(removal, NEW)


@both
def test_emptied_endpoints_come_back(variant):
    client = connected(variant, AFTER)
    client.settle(client.publish({**AFTER, ENDPOINT: {OLD: "1"}}))
    (back,) = client.publish(AFTER)
    assert back.contents[NEW] == "1"
    assert client.ack(back) == []


@both
def test_rejected_removal_of_cluster_keeps_its_endpoints_empty(variant):
    client = connected(variant, AFTER)
    sent = client.settle(client.publish({**BEFORE, CLUSTER: AFTER[CLUSTER]}))
    assert is_empty(sent[0], NEW)
    (removal,) = client.publish(BEFORE)
    assert client.nack(removal) == []
    assert client.wait(3600) == [], "the client may use the cluster still"


@both
def test_warming_client_loses_endpoints_and_then_its_cluster(variant):
    client = connected(variant, AFTER, grace_s=5)
    client.tables = BEFORE
    client = client.reconnect()
    sent = client.subscribe(ENDPOINT, OLD, NEW)
    sent += client.subscribe(LISTENER)
    sent = client.settle(sent + client.subscribe(ROUTE, "r"))
    assert any(is_empty(each, NEW) for each in sent if each.type_url == ENDPOINT)
    assert not [each for each in sent if NEW in each.removed]
    sent = client.settle(client.subscribe(CLUSTER))
    for _ in range(2):
        sent += client.settle(client.wait(5))
    assert [each.type_url for each in sent if NEW in each.removed] == ([CLUSTER, ENDPOINT] if variant is DELTA else [])
    assert NEW not in client.held[CLUSTER]


# -- clusters that a first full state must not delete ------------------------------------------------------------------


def returned(former, *, held=AFTER, tables=BEFORE):
    """Return a client of state of the world on a new stream, and its first full state of clusters.

    While it was away, `held` became `tables`; the server remembers the clusters in `former`.
    """
    client = connected(SOTW, held, grace_s=5)
    client.tables = tables
    client = client.reconnect()
    client.former = former
    (clusters,) = client.subscribe(CLUSTER)
    return client, clusters


def subscribed(client, clusters):
    """Let the client ask for all other types as Envoy does, and accept everything. Return all responses."""
    sent = [clusters]
    for type_url, names in ((ENDPOINT, (OLD, NEW)), (LISTENER, ()), (ROUTE, ("r",))):
        sent += client.subscribe(type_url, *names)
    return client.settle(sent)


def test_first_full_state_repeats_removed_cluster_until_routes_left_it():
    client, clusters = returned({NEW: "1"})
    assert clusters.contents == AFTER[CLUSTER]
    sent = subscribed(client, clusters)
    assert types_of(sent).count(CLUSTER) == 1
    assert client.held[ROUTE] == BEFORE[ROUTE]
    (removal,) = client.wait(5)
    assert removal.contents == BEFORE[CLUSTER]
    assert client.ack(removal) == client.wait(3600) == []


def test_removed_cluster_stays_while_routes_are_not_accepted():
    client, clusters = returned({NEW: "1"})
    sent = client.ack(clusters) + client.subscribe(ENDPOINT, OLD, NEW) + client.subscribe(LISTENER)
    client.settle(sent)
    (routes,) = client.subscribe(ROUTE, "r")
    assert client.wait(60) == []
    client.ack(routes)
    assert types_of(client.wait(5)) == [CLUSTER]


def test_repeated_cluster_has_empty_endpoints():
    client, clusters = returned({NEW: "2"})
    sent = subscribed(client, clusters)
    emptied = [each for each in sent if each.type_url == ENDPOINT and is_empty(each, NEW)]
    assert emptied, "a cluster in another version than the client has warms until they arrive"


def test_repeated_cluster_is_followed_by_endpoints_of_warming_client():
    client, _ = warming(SOTW, {**BEFORE, CLUSTER: {OLD: "2"}})
    client.former = {NEW: "2"}
    clusters, endpoints = client.subscribe(CLUSTER)
    assert types_of([clusters, endpoints]) == [CLUSTER, ENDPOINT]
    assert is_empty(endpoints, NEW)


def test_repeated_cluster_that_exists_again_is_sent_in_its_new_version():
    client, clusters = returned({NEW: "1"})
    subscribed(client, clusters)
    sent = client.settle(client.publish({**AFTER, CLUSTER: {OLD: "1", NEW: "3"}}))
    assert [each.contents for each in sent if each.type_url == CLUSTER] == [{OLD: "1", NEW: "3"}]
    assert client.wait(3600) == []


def test_rejected_full_state_repeats_removed_cluster_again():
    client, clusters = returned({NEW: "1"}, tables={**BEFORE, CLUSTER: {OLD: "2"}})
    sent = client.nack(clusters, OLD)
    assert all(not client.removes(each, NEW) for each in sent if each.type_url == CLUSTER)


def test_version_of_current_full_state_repeats_no_cluster():
    client = connected(SOTW, BEFORE).reconnect()
    client.former = {NEW: "1"}
    assert client.subscribe(CLUSTER) == []


def test_client_without_version_is_sent_no_removed_cluster():
    client = StreamClient(SOTW, BEFORE, former={NEW: "1"})
    (clusters,) = client.subscribe(CLUSTER)
    assert clusters.contents == BEFORE[CLUSTER]


def test_delta_client_is_sent_no_removed_cluster():
    client = connected(DELTA, {**BEFORE, CLUSTER: {OLD: "0"}})
    client.tables = BEFORE
    client = client.reconnect()
    client.former = {NEW: "1"}
    (clusters,) = client.subscribe(CLUSTER)
    assert clusters.contents == BEFORE[CLUSTER]


# -- endpoints that are owed -------------------------------------------------------------------------------------------


def test_warming_client_is_sent_endpoints_that_it_states():
    client = connected(DELTA).reconnect()
    assert client.subscribe(ENDPOINT, OLD) == []
    (endpoints,) = client.subscribe(LISTENER)
    assert endpoints.contents == {OLD: "1"}, "its cluster may warm until they arrive"
    assert client.ack(endpoints) == client.subscribe(ROUTE, "r") == []
    assert client.subscribe(CLUSTER) == []


def test_sotw_client_is_sent_endpoints_once_on_each_stream():
    client = connected(SOTW).reconnect()
    (endpoints,) = client.subscribe(ENDPOINT, OLD)
    assert endpoints.contents == {OLD: "1"}, "its version proves nothing (rule 16)"
    assert client.subscribe(LISTENER) == client.ack(endpoints) == []


@pytest.mark.parametrize("types", [(CLUSTER, ENDPOINT, LISTENER), (ENDPOINT,), (ENDPOINT, ROUTE)], ids=len)
def test_other_clients_are_not_sent_endpoints_that_they_state(types):
    client = connected(DELTA).reconnect()
    for type_url in types:
        assert client.subscribe(type_url, *{CLUSTER: (), ENDPOINT: (OLD,), LISTENER: (), ROUTE: ("r",)}[type_url]) == []


@both
@pytest.mark.parametrize("only", [None, ENDPOINT], ids=["aggregated", "one-type"])
def test_endpoints_follow_clusters_accepted_on_another_stream(variant, only):
    clusters = connected(variant, types=(CLUSTER,), only=CLUSTER)
    others = StreamClient(variant, BEFORE, only=only)
    others.settle(others.subscribe(ENDPOINT, OLD))
    changed = {**BEFORE, CLUSTER: {OLD: "2"}}
    assert others.publish(changed) == [], "before the cluster they would be lost on it"
    clusters.ack(*clusters.publish(changed))
    (answer,) = clusters.answers[-1:]
    (endpoints,) = others.accepted_elsewhere(answer)
    assert endpoints.contents == {OLD: "1"}


@both
def test_clusters_of_another_stream_change_nothing_beside_own_ones(variant):
    one, other = connected(variant), connected(variant)
    one.settle(one.publish({**BEFORE, CLUSTER: {OLD: "2"}}))
    assert other.accepted_elsewhere(one.answers[-1]) == []
