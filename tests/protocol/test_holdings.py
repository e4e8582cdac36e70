"""What the server knows of a client: what it holds, what is on its way, and whether it is settled."""

from __future__ import annotations

import pytest

from tests.protocol.client import DELTA, SOTW, Client, resource_of, version_of, view_of
from xds.protocol.stream import ResourceStatus, SyncState
from xds.translate.names import CLUSTER, ENDPOINT, ROUTE

both = pytest.mark.parametrize("variant", [SOTW, DELTA], ids=["sotw", "delta"])
ONE, TWO = version_of("a", "1"), version_of("a", "2")


def statuses(client: Client, type_url: str, wanted=None) -> list[ResourceStatus]:
    return [*client.stream.resource_statuses(type_url, view_of(client.tables if wanted is None else wanted))]


@both
def test_what_was_accepted_is_held(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert statuses(client, ENDPOINT) == [ResourceStatus("a", ONE, ONE, ONE, SyncState.ACKNOWLEDGED)]
    assert client.stream.is_in_sync(ENDPOINT)


@both
def test_what_was_not_answered_is_sent_and_what_is_held_is_not_known(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    client.publish({ENDPOINT: {"a": "2"}})
    assert statuses(client, ENDPOINT) == [ResourceStatus("a", TWO, TWO, None, SyncState.IN_FLIGHT)]
    assert not client.stream.is_in_sync(ENDPOINT)


@both
def test_what_another_answer_gates_waits(variant):
    client = Client(variant, {CLUSTER: {"c": "1"}, ROUTE: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER) + client.subscribe(ROUTE, "a"))
    client.publish({CLUSTER: {"c": "2"}, ROUTE: {"a": "2"}})
    assert statuses(client, ROUTE) == [ResourceStatus("a", TWO, TWO, ONE, SyncState.PENDING)]
    assert not client.stream.is_in_sync(ROUTE)


@both
def test_a_removal_in_its_grace_waits(variant):
    client = Client(variant, {CLUSTER: {"a": "1"}}, grace_s=5)
    client.settle(client.subscribe(CLUSTER))
    client.publish({})
    assert statuses(client, CLUSTER) == [ResourceStatus("a", None, None, ONE, SyncState.PENDING)]
    client.settle(client.wait(5))
    assert statuses(client, CLUSTER) == []


@both
def test_what_was_refused_is_rejected_until_it_is_something_else(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.nack(response)
    assert statuses(client, ENDPOINT) == [ResourceStatus("a", ONE, ONE, None, SyncState.REJECTED)]
    client.settle(client.publish({ENDPOINT: {"a": "2"}}))
    assert statuses(client, ENDPOINT) == [ResourceStatus("a", TWO, TWO, TWO, SyncState.ACKNOWLEDGED)]


@both
def test_one_who_is_given_something_else_than_what_is_wanted_is_kept_from_it(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    wanted = {ENDPOINT: {"a": "2"}}
    assert statuses(client, ENDPOINT, wanted) == [ResourceStatus("a", TWO, ONE, ONE, SyncState.WITHHELD)]


@both
def test_a_name_that_does_not_exist_is_held_by_nobody(variant):
    client = Client(variant, {})
    client.settle(client.subscribe(ENDPOINT, "nowhere"))
    assert statuses(client, ENDPOINT) == [ResourceStatus("nowhere", None, None, None, SyncState.ACKNOWLEDGED)]


@both
def test_a_type_that_nobody_asked_for_has_no_holdings(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    assert statuses(client, ENDPOINT) == []
    assert not client.stream.is_in_sync(ENDPOINT)


@both
def test_only_names_that_were_asked_for_are_shown(variant):
    client = Client(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert [each.name for each in statuses(client, ENDPOINT)] == ["a"]


# -- whether a stream could send anything ------------------------------------------------------------------------------


@both
def test_a_stream_is_blocked_with_the_types_that_wait_for_an_answer(variant):
    client = Client(variant, {CLUSTER: {"c": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER) + client.subscribe(ENDPOINT, "a"))
    assert not client.stream.is_blocked([ENDPOINT])
    sent = client.publish({CLUSTER: {"c": "1"}, ENDPOINT: {"a": "2"}})
    assert client.stream.is_blocked([ENDPOINT])
    assert not client.stream.is_blocked([CLUSTER, ENDPOINT])
    client.settle(sent)
    assert not client.stream.is_blocked([ENDPOINT])


# -- whether a change has arrived --------------------------------------------------------------------------------------


@both
def test_a_version_stands_once_it_was_accepted(variant):
    first, second = resource_of(ENDPOINT, "a", "1"), resource_of(ENDPOINT, "a", "2")
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    assert client.stream.has_accepted(ENDPOINT, "a", first) is False  # it may ask for the type yet
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert client.stream.has_accepted(ENDPOINT, "a", first) is True
    sent = client.publish({ENDPOINT: {"a": "2"}})
    assert client.stream.has_accepted(ENDPOINT, "a", second) is False
    client.settle(sent)
    assert client.stream.has_accepted(ENDPOINT, "a", second) is True
    assert client.stream.has_accepted(ENDPOINT, "a", first) is False


@both
def test_a_rejected_version_does_not_stand(variant):
    client = Client(variant, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.nack(response)
    assert client.stream.has_accepted(ENDPOINT, "a", resource_of(ENDPOINT, "a", "1")) is False


@both
def test_nobody_can_tell_of_what_was_not_asked_for(variant):
    client = Client(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert client.stream.has_accepted(ENDPOINT, "b", resource_of(ENDPOINT, "b", "1")) is None


@both
def test_the_end_of_a_resource_stands_once_the_client_knows(variant):
    client = Client(variant, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    sent = client.publish({CLUSTER: {"b": "1"}})
    assert client.stream.has_accepted(CLUSTER, "a", None) is False
    client.settle(sent)
    assert client.stream.has_accepted(CLUSTER, "a", None) is True
