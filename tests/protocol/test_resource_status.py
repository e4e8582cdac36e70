"""The status of resources on a stream: acknowledged, in flight, pending, rejected or withheld."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.protocol.stream_client import DELTA, SOTW, StreamClient, resource_of, version_of, view_of
from xds.protocol.stream import ResourceStatus, SyncState
from xds.translate.names import CLUSTER, ENDPOINT, ROUTE

both = pytest.mark.parametrize("variant", [SOTW, DELTA], ids=["sotw", "delta"])
ONE, TWO = version_of("a", "1"), version_of("a", "2")


def statuses(client: StreamClient, type_url: str, wanted=None) -> list[ResourceStatus]:
    return [*client.stream.resource_statuses(type_url, view_of(client.tables if wanted is None else wanted))]


@both
def test_accepted_version_is_acknowledged(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert statuses(client, ENDPOINT) == [ResourceStatus("a", ONE, ONE, ONE, SyncState.ACKNOWLEDGED)]
    assert client.stream.is_in_sync(ENDPOINT)


@both
def test_unanswered_version_is_in_flight(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    client.publish({ENDPOINT: {"a": "2"}})
    assert statuses(client, ENDPOINT) == [ResourceStatus("a", TWO, TWO, None, SyncState.IN_FLIGHT)]
    assert not client.stream.is_in_sync(ENDPOINT)


@both
def test_gated_version_is_pending(variant):
    pool = f"pool/{UUID(int=1)}"
    client = StreamClient(variant, {CLUSTER: {}, ROUTE: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER) + client.subscribe(ROUTE, "a"))
    client.publish({CLUSTER: {pool: "1"}, ROUTE: {"a": f"to {pool}"}})
    version = version_of("a", f"to {pool}")
    assert statuses(client, ROUTE) == [ResourceStatus("a", version, version, ONE, SyncState.PENDING)]
    assert not client.stream.is_in_sync(ROUTE)


@both
def test_removal_in_its_grace_is_pending(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1"}}, grace_s=5)
    client.settle(client.subscribe(CLUSTER))
    client.publish({})
    assert statuses(client, CLUSTER) == [ResourceStatus("a", None, None, ONE, SyncState.PENDING)]
    client.settle(client.wait(5))
    assert statuses(client, CLUSTER) == []


@both
def test_nacked_version_is_rejected_until_it_changes(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.nack(response)
    assert statuses(client, ENDPOINT) == [ResourceStatus("a", ONE, ONE, None, SyncState.REJECTED)]
    client.settle(client.publish({ENDPOINT: {"a": "2"}}))
    assert statuses(client, ENDPOINT) == [ResourceStatus("a", TWO, TWO, TWO, SyncState.ACKNOWLEDGED)]


@both
def test_other_version_than_desired_is_withheld(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    wanted = {ENDPOINT: {"a": "2"}}
    assert statuses(client, ENDPOINT, wanted) == [ResourceStatus("a", TWO, ONE, ONE, SyncState.WITHHELD)]


@both
def test_missing_name_has_no_versions(variant):
    client = StreamClient(variant, {})
    client.settle(client.subscribe(ENDPOINT, "nowhere"))
    assert statuses(client, ENDPOINT) == [ResourceStatus("nowhere", None, None, None, SyncState.ACKNOWLEDGED)]


@both
def test_unsubscribed_type_has_no_statuses(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    assert statuses(client, ENDPOINT) == []
    assert not client.stream.is_in_sync(ENDPOINT)


@both
def test_only_subscribed_names_have_statuses(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert [each.name for each in statuses(client, ENDPOINT)] == ["a"]


# -- whether a stream is blocked ------------------------------------------------------------------------------


@both
def test_types_in_flight_are_blocked(variant):
    client = StreamClient(variant, {CLUSTER: {"c": "1"}, ENDPOINT: {"a": "1"}})
    client.settle(client.subscribe(CLUSTER) + client.subscribe(ENDPOINT, "a"))
    assert not client.stream.is_blocked([ENDPOINT])
    sent = client.publish({CLUSTER: {"c": "1"}, ENDPOINT: {"a": "2"}})
    assert client.stream.is_blocked([ENDPOINT])
    assert not client.stream.is_blocked([CLUSTER, ENDPOINT])
    client.settle(sent)
    assert not client.stream.is_blocked([ENDPOINT])


# -- whether a change was accepted --------------------------------------------------------------------------------------


@both
def test_version_is_accepted_after_ack(variant):
    first, second = resource_of(ENDPOINT, "a", "1"), resource_of(ENDPOINT, "a", "2")
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    assert client.stream.has_accepted(ENDPOINT, "a", first) is False  # it may ask for the type yet
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert client.stream.has_accepted(ENDPOINT, "a", first) is True
    sent = client.publish({ENDPOINT: {"a": "2"}})
    assert client.stream.has_accepted(ENDPOINT, "a", second) is False
    client.settle(sent)
    assert client.stream.has_accepted(ENDPOINT, "a", second) is True
    assert client.stream.has_accepted(ENDPOINT, "a", first) is False


@both
def test_nacked_version_is_not_accepted(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1"}})
    (response,) = client.subscribe(ENDPOINT, "a")
    client.nack(response)
    assert client.stream.has_accepted(ENDPOINT, "a", resource_of(ENDPOINT, "a", "1")) is False


@both
def test_acceptance_of_unsubscribed_name_is_unknown(variant):
    client = StreamClient(variant, {ENDPOINT: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(ENDPOINT, "a"))
    assert client.stream.has_accepted(ENDPOINT, "b", resource_of(ENDPOINT, "b", "1")) is None


@both
def test_removal_is_accepted_after_ack(variant):
    client = StreamClient(variant, {CLUSTER: {"a": "1", "b": "1"}})
    client.settle(client.subscribe(CLUSTER))
    sent = client.publish({CLUSTER: {"b": "1"}})
    assert client.stream.has_accepted(CLUSTER, "a", None) is False
    client.settle(sent)
    assert client.stream.has_accepted(CLUSTER, "a", None) is True
