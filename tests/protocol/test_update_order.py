"""Make before break (rule 32): the order of additions and removals in the tables of xds/snapshot/order.py."""

from __future__ import annotations

import pytest

from tests.protocol.stream_client import DELTA, SOTW, StreamClient
from xds.snapshot.order import ADDITIONS, AFTER_CLUSTERS, FOLLOWED_BY, REMOVALS
from xds.translate.names import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, SECRET

both = pytest.mark.parametrize("variant", [SOTW, DELTA], ids=["sotw", "delta"])
OLD, NEW, KEPT = (f"pool/00000000-0000-0000-0000-00000000000{number}" for number in (1, 2, 3))
"""Names of clusters, and of resources of other types: since its name is in its body, each refers to the cluster of its name."""
ALL = {type_url: {OLD: "1"} for type_url in ADDITIONS}


def connected(variant, tables, *types, grace_s=0.0):
    """Return a client that subscribed to these types and accepted everything."""
    client = StreamClient(variant, tables, grace_s=grace_s)
    for type_url in types or tables:
        client.settle(client.subscribe(type_url, *(["*"] if type_url in (CLUSTER, LISTENER) else [OLD, NEW])))
    return client


# -- the tables themselves ---------------------------------------------------------------------------------------------


def test_types_that_name_clusters_are_sent_after_them():
    assert {CLUSTER, *AFTER_CLUSTERS} <= {*ADDITIONS}
    assert all(ADDITIONS.index(CLUSTER) < ADDITIONS.index(type_url) for type_url in AFTER_CLUSTERS)


def test_removals_go_from_referrer_to_referred():
    edges = {(other, type_url) for type_url, referrers in REMOVALS.items() for other in referrers}
    reached = edges
    while True:
        further = reached | {(one, four) for one, two in reached for three, four in edges if two == three}
        if further == reached:
            break
        reached = further
    assert not [pair for pair in reached if pair[0] == pair[1]], "types that wait for each other wait for ever"


def test_followers_are_sent_after_and_wait_for_nothing():
    for type_url, follower in FOLLOWED_BY.items():
        assert ADDITIONS.index(type_url) < ADDITIONS.index(follower)
        assert follower not in AFTER_CLUSTERS, "Envoy acknowledges a cluster once it has the endpoints"


# -- additions ---------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("type_url", sorted(AFTER_CLUSTERS))
def test_routes_and_listeners_wait_for_ack_of_their_clusters(variant, type_url):
    client = connected(variant, {CLUSTER: {OLD: "1"}, type_url: {OLD: "1"}})
    (clusters,) = client.publish({CLUSTER: {OLD: "1", NEW: "1"}, type_url: {OLD: f"to {NEW}"}})
    assert clusters.type_url == CLUSTER
    (response,) = client.ack(clusters)
    assert (response.type_url, response.contents) == (type_url, {OLD: f"to {NEW}"})


@both
@pytest.mark.parametrize("type_url", sorted({*ADDITIONS} - AFTER_CLUSTERS - {CLUSTER}))
def test_secrets_and_endpoints_do_not_wait(variant, type_url):
    client = connected(variant, {CLUSTER: {OLD: "1"}, type_url: {OLD: "1"}})
    responses = client.publish({CLUSTER: {OLD: "1", NEW: "1"}, type_url: {OLD: "2"}})
    assert {response.type_url for response in responses} == {CLUSTER, type_url}


@both
def test_first_request_for_routes_waits_for_clusters(variant):
    client = StreamClient(variant, {CLUSTER: {OLD: "1"}, ROUTE: {"r": f"to {OLD}"}, LISTENER: {"l": f"to {OLD}"}})
    (clusters,) = client.subscribe(CLUSTER)
    assert client.subscribe(ROUTE, "r") == []
    assert client.subscribe(LISTENER) == []
    listeners, routes = client.ack(clusters)
    assert (listeners.type_url, [*listeners.contents]) == (LISTENER, ["l"])
    assert (routes.type_url, [*routes.contents]) == (ROUTE, ["r"])


@both
def test_rejected_cluster_does_not_delay_routes(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}, ROUTE: {OLD: "1"}})
    (clusters,) = client.publish({CLUSTER: {OLD: "1", NEW: "1"}, ROUTE: {OLD: f"to {NEW}"}})
    (routes,) = client.nack(clusters)
    assert routes.type_url == ROUTE


@both
def test_one_response_per_type_in_flight_next_has_newest(variant):
    client = connected(variant, {ENDPOINT: {OLD: "1"}})
    (first,) = client.publish({ENDPOINT: {OLD: "2"}})
    assert client.publish({ENDPOINT: {OLD: "3"}}) == []
    assert client.publish({ENDPOINT: {OLD: "4"}}) == []
    (second,) = client.ack(first)
    assert second.contents == {OLD: "4"}
    assert [answer.revision for answer in client.answers][-1] == 2
    client.ack(second)
    assert [answer.revision for answer in client.answers][-1] == 4


@both
def test_change_reverted_while_in_flight_is_not_sent(variant):
    client = connected(variant, {ENDPOINT: {OLD: "1"}})
    (first,) = client.publish({ENDPOINT: {OLD: "2"}})
    client.publish({ENDPOINT: {OLD: "3"}})
    client.publish({ENDPOINT: {OLD: "2"}})
    assert client.ack(first) == []


# -- removals ----------------------------------------------------------------------------------------------------------


def removable(type_url, variant):
    return variant is DELTA or type_url in (CLUSTER, LISTENER)


PAIRS = [
    pytest.param(variant, type_url, referrer, id=f"{variant.value}-{type_url.split('.')[-1]}-{referrer.split('.')[-1]}")
    for variant in (SOTW, DELTA)
    for type_url, referrers in REMOVALS.items()
    for referrer in referrers
    if removable(type_url, variant) and type_url != ENDPOINT  # they exist for as long as their cluster
]


@pytest.mark.parametrize(("variant", "type_url", "referrer"), PAIRS)
def test_removal_waits_for_ack_of_referrer(variant, type_url, referrer):
    client = connected(variant, {type_url: {OLD: "1"}, referrer: {OLD: "1"}})
    (change,) = client.publish({type_url: {}, referrer: {OLD: "2"}})
    assert change.type_url == referrer
    (removal,) = client.ack(change)
    assert client.removes(removal, OLD)


@pytest.mark.parametrize(("variant", "type_url", "referrer"), PAIRS)
def test_removal_waits_while_referrer_is_rejected(variant, type_url, referrer):
    client = connected(variant, {type_url: {OLD: "1"}, referrer: {OLD: "1"}})
    (change,) = client.publish({type_url: {}, referrer: {OLD: "2"}})
    assert client.nack(change) == []
    assert client.wait(3600) == []
    (fixed,) = client.publish({type_url: {}, referrer: {OLD: "3"}})
    (removal,) = client.ack(fixed)
    assert client.removes(removal, OLD)


@pytest.mark.parametrize(
    ("variant", "type_url", "referrer"),
    [pair for pair in PAIRS if pair.values[0] is DELTA and EXTENSION not in pair.values],
)
def test_removal_waits_for_removal_of_referrer(variant, type_url, referrer):
    client = connected(variant, {type_url: {OLD: "1"}, referrer: {OLD: "1"}})
    (first,) = client.publish({type_url: {}, referrer: {}})
    assert first.type_url == referrer
    (second,) = client.ack(first)
    assert (second.type_url, second.removed) == (type_url, [OLD])


@pytest.mark.parametrize(
    ("variant", "type_url", "referrer"),
    [pair for pair in PAIRS if pair.values[0] is DELTA and EXTENSION not in pair.values],
)
def test_removal_waits_if_removal_of_referrer_is_rejected(variant, type_url, referrer):
    client = connected(variant, {type_url: {OLD: "1"}, referrer: {OLD: "1"}})
    (first,) = client.publish({type_url: {}, referrer: {}})
    assert client.nack(first) == [], "the client may still use it, and a removal is not repeated either"
    assert client.wait(3600) == []
    (back,) = client.publish({type_url: {}, referrer: {OLD: "1"}})
    (second,) = client.ack(back)
    assert (second.type_url, second.removed) == (type_url, [OLD])


def test_accepted_full_state_completes_rejected_removal():
    client = connected(SOTW, {CLUSTER: {OLD: "1"}, LISTENER: {OLD: "1", "other": "1"}})
    (first,) = client.publish({CLUSTER: {}, LISTENER: {"other": "1"}})
    assert client.nack(first) == []
    (state,) = client.publish({CLUSTER: {}, LISTENER: {"other": "2"}})
    assert state.contents == {"other": "2"}, "the removed name does not come back"
    (removal,) = client.ack(state)
    assert client.removes(removal, OLD)


@both
def test_removal_waits_for_pending_referrer(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}, ROUTE: {}, LISTENER: {"l": "1"}})
    client.settle(client.subscribe(ROUTE, "r"))
    (clusters,) = client.publish({CLUSTER: {NEW: "1"}, ROUTE: {"r": f"to {NEW}"}, LISTENER: {"l": "1"}})
    assert set(clusters.contents) >= {NEW}
    assert not client.removes(clusters, OLD)
    (routes,) = client.ack(clusters)
    (removal,) = client.ack(routes)
    assert client.removes(removal, OLD)


@both
def test_renamed_listener_is_removed_after_new_one_is_sent(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}, LISTENER: {OLD: "1"}})
    (clusters,) = client.publish({CLUSTER: {OLD: "1", NEW: "1"}, LISTENER: {NEW: "1"}})
    assert clusters.type_url == CLUSTER, "the new one waits for it, and the old one for the new one"
    (listeners,) = client.ack(clusters)
    assert not client.removes(listeners, OLD)
    (removal,) = client.ack(listeners)
    assert client.removes(removal, OLD)


@both
def test_rejected_route_keeps_cluster_of_older_route(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}, ROUTE: {OLD: f"to {OLD}"}})
    (clusters,) = client.publish({CLUSTER: {NEW: "1"}, ROUTE: {OLD: f"to {NEW}"}})
    (routes,) = client.ack(clusters)
    assert client.nack(routes) == []
    assert client.publish({CLUSTER: {NEW: "1"}, ROUTE: {OLD: f"to {NEW}"}}, known=False) == []
    assert OLD in client.held[CLUSTER]


@both
def test_route_not_resent_after_nack_keeps_its_cluster(variant):
    both_clusters = {OLD: "1", NEW: "1"}
    client = connected(variant, {CLUSTER: both_clusters, ROUTE: {OLD: f"to {OLD}"}})
    (bad,) = client.publish({CLUSTER: both_clusters, ROUTE: {OLD: f"to {NEW}"}})
    client.nack(bad)
    client.settle(client.publish({CLUSTER: both_clusters, ROUTE: {OLD: f"to {OLD}"}}))
    assert client.publish({CLUSTER: {NEW: "1"}, ROUTE: {OLD: f"to {NEW}"}}) == [], "rejected once is rejected"
    (clusters,) = client.publish({CLUSTER: {NEW: "1"}, ROUTE: {OLD: f"to {NEW}, fixed"}})
    (removal,) = client.ack(clusters)
    assert client.removes(removal, OLD)


@both
def test_removed_extension_keeps_clusters_until_unsubscribed(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}, EXTENSION: {OLD: "1"}})
    assert client.publish({CLUSTER: {}, EXTENSION: {}}) == [], "it is not removed (rule 29), so the client may use it"
    (removal,) = client.unsubscribe(EXTENSION, OLD)
    assert client.removes(removal, OLD)


@both
def test_unsubscribed_type_gates_nothing(variant):
    client = connected(variant, {**ALL}, CLUSTER)
    (removal,) = client.publish({**ALL, CLUSTER: {}})
    assert client.removes(removal, OLD)


def test_sotw_removal_by_name_is_forgotten_and_frees_clusters():
    client = connected(SOTW, {CLUSTER: {OLD: "1"}, ROUTE: {OLD: "1"}, LISTENER: {OLD: "1"}})
    (listeners,) = client.publish({CLUSTER: {}, ROUTE: {}, LISTENER: {}})
    (clusters,) = client.ack(listeners)
    assert client.removes(clusters, OLD)


# -- clusters by name, as gRPC's client subscribes to them ---------------------------------------------------------------

MOVED = {CLUSTER: {KEPT: "1", NEW: "1"}, ROUTE: {"r": f"to {NEW}"}}
BEFORE = {CLUSTER: {KEPT: "1", OLD: "1"}, ROUTE: {"r": f"to {OLD}"}}


@both
def test_missing_name_waits_for_ack_of_route_that_leaves_it(variant):
    client = StreamClient(variant, BEFORE)
    client.settle(client.subscribe(ROUTE, "r"))
    (routes,) = client.publish(MOVED)
    assert client.subscribe(CLUSTER, OLD) == [], "it read the older route"
    (missing,) = client.ack(routes)
    assert client.removes(missing, OLD)


@both
@pytest.mark.parametrize("first", [CLUSTER, ROUTE], ids=["clusters first", "routes first"])
def test_reconnecting_client_keeps_named_cluster_until_route_left_it(variant, first):
    client = StreamClient(variant, BEFORE, grace_s=1)
    client.settle(client.subscribe(ROUTE, "r"))
    client.settle(client.subscribe(CLUSTER, OLD, KEPT))
    client.tables = MOVED  # while the control plane restarts
    client = client.reconnect()
    names = {CLUSTER: [OLD, KEPT], ROUTE: ["r"]}
    order = [first, *(names.keys() - {first})]
    responses = [each for type_url in order for each in client.subscribe(type_url, *names[type_url])]
    (routes,) = responses
    assert routes.contents == {"r": f"to {NEW}"}
    assert client.wait(60) == []
    client.ack(routes)
    client.names[CLUSTER] = [KEPT, NEW]
    changes = {"resource_names_subscribe": [NEW], "resource_names_unsubscribe": [OLD]}
    (clusters,) = client.request(CLUSTER, **changes)
    assert clusters.contents[NEW] == "1", "what exists is sent at once"
    assert client.settle([clusters]) == [clusters]
    assert client.held[CLUSTER] | {OLD: "1"} == {OLD: "1", KEPT: "1", NEW: "1"}


@both
def test_client_that_keeps_naming_missing_cluster_is_told_after_grace(variant):
    client = StreamClient(variant, MOVED, grace_s=1)
    client.settle(client.subscribe(ROUTE, "r"))
    at_once = client.settle(client.subscribe(CLUSTER, OLD, KEPT))
    assert [each.contents for each in at_once] == ([{KEPT: "1"}] if variant is DELTA else [])
    assert client.wait(0.9) == []
    (told,) = client.settle(client.wait(0.1))
    assert client.removes(told, OLD)
    assert client.held[CLUSTER] == {KEPT: "1"}
    assert client.wait(60) == []
    (response,) = client.publish({**MOVED, CLUSTER: {KEPT: "1", OLD: "2"}})
    assert response.contents[OLD] == "2", "it is sent once it exists"


@both
def test_missing_name_waits_while_route_is_rejected(variant):
    client = StreamClient(variant, BEFORE)
    client.settle(client.subscribe(ROUTE, "r"))
    (routes,) = client.publish(MOVED)
    client.subscribe(CLUSTER, OLD)
    assert client.nack(routes) == []
    assert client.wait(3600) == []
    (back,) = client.publish(BEFORE)[-1:]
    assert back.contents[OLD if back.type_url == CLUSTER else "r"]


# -- the grace ---------------------------------------------------------------------------------------------------------


@both
def test_removal_waits_for_grace(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}, ROUTE: {OLD: "1"}}, grace_s=5)
    (routes,) = client.publish({CLUSTER: {}, ROUTE: {OLD: "2"}})
    client.wait(60)
    assert client.ack(routes) == [], "the grace begins once nothing refers to it"
    assert client.stream.wake_at == client.now + 5
    assert client.wait(4.9) == []
    (removal,) = client.wait(0.1)
    assert client.removes(removal, OLD)
    assert client.stream.wake_at is None


@both
def test_name_restored_within_grace_is_not_removed(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}}, grace_s=5)
    assert client.publish({CLUSTER: {}}) == []
    client.wait(4)
    assert client.publish({CLUSTER: {OLD: "1"}}) == [], "the client holds it still"
    assert client.wait(60) == []
    assert client.publish({CLUSTER: {}}) == []
    assert client.wait(4.9) == [], "and its next grace is a whole one"
    assert len(client.wait(0.1)) == 1


@both
def test_name_restored_and_removed_while_in_flight_gets_full_grace(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}}, grace_s=5)
    client.publish({CLUSTER: {}})
    client.wait(4)
    (other,) = client.publish({CLUSTER: {NEW: "1"}})
    client.publish({CLUSTER: {NEW: "1", OLD: "1"}})
    client.publish({CLUSTER: {NEW: "1"}})
    client.ack(other)
    assert client.wait(4.9) == []
    assert len(client.wait(0.1)) == 1


@both
def test_route_changes_do_not_delay_pending_removal(variant):
    client = connected(variant, {CLUSTER: {OLD: "1"}, ROUTE: {OLD: "0"}}, grace_s=5)
    client.publish({CLUSTER: {}, ROUTE: {OLD: "0"}})
    said = []
    for second in range(1, 6):
        said += client.wait(1)
        said += client.settle(client.publish({CLUSTER: {}, ROUTE: {OLD: f"{second}"}}))
    assert [response for response in said if response.type_url == CLUSTER], "no later route can refer to it"


@both
def test_each_name_has_its_own_grace(variant):
    client = connected(variant, {CLUSTER: {OLD: "1", "b": "1"}}, grace_s=5)
    client.publish({CLUSTER: {"b": "1"}})
    client.wait(3)
    assert client.publish({CLUSTER: {}}) == []
    (first,) = client.wait(2)
    assert client.removes(first, OLD)
    assert not client.removes(first, "b")
    client.ack(first)
    assert client.stream.wake_at == client.now + 3
    (second,) = client.wait(3)
    assert client.removes(second, "b")


@both
def test_earliest_of_several_types_wakes_stream(variant):
    client = connected(variant, {SECRET: {OLD: "1"}, CLUSTER: {OLD: "1"}, LISTENER: {OLD: "1"}}, grace_s=5)
    client.publish({SECRET: {OLD: "1"}, CLUSTER: {OLD: "1"}, LISTENER: {}})
    client.wait(1)
    client.publish({SECRET: {}, CLUSTER: {OLD: "1"}, LISTENER: {}})
    client.publish({SECRET: {}, CLUSTER: {}, LISTENER: {}})
    assert client.stream.wake_at == 5
    graces = [client.stream.wake_at]
    for type_url in (LISTENER, CLUSTER):
        (removal,) = client.wait(client.stream.wake_at - client.now)
        assert removal.type_url == type_url
        client.ack(removal)
        graces.append(client.stream.wake_at)
    assert graces == [5, 10, 15]


@both
def test_wake_without_due_work_sends_nothing(variant):
    client = connected(variant, ALL)
    assert list(client.stream.wake(client.now)) == []
    fresh = StreamClient(variant, ALL)
    assert list(fresh.stream.wake(0)) == []
    assert fresh.publish({}) == []


def test_removal_waits_for_reconnecting_client_to_ask_for_routes():
    client = connected(DELTA, {CLUSTER: {OLD: "1"}, ROUTE: {OLD: f"to {OLD}"}}, grace_s=5)
    client.tables = {CLUSTER: {NEW: "1"}, ROUTE: {OLD: f"to {NEW}"}}
    client = client.reconnect()
    client.settle(client.subscribe(CLUSTER, "*"))
    assert client.wait(4) == []
    (routes,) = client.subscribe(ROUTE, OLD)
    assert client.wait(60) == [], "its route still goes to the old cluster"
    client.ack(routes)
    assert client.wait(4.9) == []
    (removal,) = client.wait(0.1)
    assert removal.removed == [OLD]


def test_waiting_types_are_sent_in_table_order():
    waiting = [type_url for type_url in ADDITIONS if type_url in AFTER_CLUSTERS]
    client = connected(DELTA, {CLUSTER: {OLD: "1"}, **{type_url: {OLD: "1"} for type_url in waiting}})
    (clusters,) = client.publish({CLUSTER: {NEW: "1"}, **{type_url: {OLD: f"to {NEW}"} for type_url in waiting}})
    assert [response.type_url for response in client.ack(clusters)] == waiting
