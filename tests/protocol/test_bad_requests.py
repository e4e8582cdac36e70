"""Wrong and hostile requests: each ends the stream with the right status or is ignored, and costs bounded memory."""

from __future__ import annotations

from dataclasses import fields
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xds.protocol.messages
import xds.protocol.stream
from tests.protocol.stream_client import DELTA, SOTW, StreamClient, view_of
from tests.scale import scaled
from xds.protocol.messages import MalformedRequest, parse_request
from xds.protocol.stream import MAX_NODE_BYTES, Answered, Close, Send
from xds.protocol.subscription import MAX_NACKED_VERSIONS
from xds.snapshot.order import ADDITIONS
from xds.snapshot.snapshot import ProxyView
from xds.translate.names import CLUSTER, ENDPOINT, LISTENER, ROUTE
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

both = pytest.mark.parametrize("variant", [SOTW, DELTA], ids=["sotw", "delta"])
TABLES = {type_url: {"a": "1", "b": "1"} for type_url in ADDITIONS}


@pytest.fixture
def few_names(monkeypatch) -> None:
    """Set the limit to ten names."""
    for module in (xds.protocol.messages, xds.protocol.stream):
        monkeypatch.setattr(module, "MAX_NAMES", 10)


@both
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xff", id="a tag that does not end"),
        pytest.param(b"\x0a\x05abc", id="a string that is cut off"),
        pytest.param(b"\x12\x02\xff\xfe\x22\x02\xff\xfe", id="strings that are not UTF-8"),
        pytest.param(b"\x1a\x02\xff\xfe", id="a name that is not UTF-8"),
        pytest.param(b"\x0b" * 200, id="groups without end"),
    ],
)
def test_malformed_request_ends_stream(variant, raw):
    client = StreamClient(variant, TABLES)
    assert client.receive(raw) == []
    assert client.closed.status == "INVALID_ARGUMENT"
    with pytest.raises(MalformedRequest):
        parse_request(variant, raw)


@both
def test_empty_request_ends_stream(variant):
    client = StreamClient(variant, TABLES)
    client.receive(b"")
    assert client.closed.status == "INVALID_ARGUMENT"


@both
def test_per_type_stream_rejects_other_types(variant):
    client = StreamClient(variant, TABLES, only=CLUSTER)
    assert client.subscribe(ENDPOINT, "a") == []
    assert client.closed.status == "INVALID_ARGUMENT"
    assert CLUSTER in client.closed.message


@both
def test_per_type_stream_serves_its_type(variant):
    client = StreamClient(variant, TABLES, only=ENDPOINT)
    (response,) = client.subscribe(ENDPOINT, "a")
    assert response.contents == {"a": "1"}
    client.ack(response)
    assert client.publish({**TABLES, CLUSTER: {}}) == []
    assert client.closed is None


@pytest.mark.usefixtures("few_names")
@both
def test_too_many_names_end_stream(variant):
    client = StreamClient(variant, TABLES)
    client.subscribe(ENDPOINT, *(f"name-{number}" for number in range(10)))
    assert client.closed is None
    client.subscribe(ENDPOINT, "one more")
    assert client.closed.status == "RESOURCE_EXHAUSTED"


@pytest.mark.usefixtures("few_names")
def test_too_many_names_over_several_requests_end_stream():
    client = StreamClient(DELTA, TABLES)
    for number in range(11):
        client.subscribe(ENDPOINT, f"name-{number}")
    assert client.closed.status == "RESOURCE_EXHAUSTED"


@pytest.mark.usefixtures("few_names")
def test_too_many_initial_versions_end_stream():
    client = StreamClient(DELTA, TABLES)
    client.request(CLUSTER, initial_resource_versions={f"name-{number}": "1" for number in range(11)})
    assert client.closed.status == "RESOURCE_EXHAUSTED"


@pytest.mark.usefixtures("few_names")
def test_names_dropped_under_wildcard_count_until_answered():
    client = StreamClient(DELTA, TABLES)
    client.subscribe(CLUSTER, "*")  # never acknowledged
    for number in range(11):
        client.subscribe(CLUSTER, f"name-{number}")
        client.unsubscribe(CLUSTER, f"name-{number}")
    assert client.closed.status == "RESOURCE_EXHAUSTED"


@pytest.mark.usefixtures("few_names")
def test_unsubscribed_names_do_not_count():
    client = StreamClient(DELTA, TABLES)
    for number in range(100):
        client.settle(client.subscribe(ENDPOINT, f"name-{number}"))
        client.unsubscribe(ENDPOINT, f"name-{number}")
    assert client.closed is None


@both
def test_client_that_never_answers_gets_one_response_per_type(variant):
    client = StreamClient(variant, TABLES)
    assert len(client.subscribe(ENDPOINT, "a", "b")) == 1
    for number in range(100):
        assert client.publish({**TABLES, ENDPOINT: {"a": str(number), "b": "1"}}) == []
    (subscription,) = client.stream._subscriptions.values()
    assert len(subscription.in_flight) == 1
    assert subscription.dirty == {"a"}


@both
def test_any_string_is_a_valid_name(variant):
    strange = ["", " ", "\x00", "\n", "*\x00", "é\u202e", "a" * 10_000]
    client = StreamClient(variant, TABLES)
    client.settle(client.subscribe(ENDPOINT, *strange))
    client.settle(client.unsubscribe(ENDPOINT, *strange))
    assert client.closed is None


@both
@pytest.mark.parametrize(("more", "status"), [(0, None), (1, "RESOURCE_EXHAUSTED")])
def test_node_size_limit(variant, more, status):
    client = StreamClient(variant, TABLES)
    client.request(CLUSTER, node=bytes(MAX_NODE_BYTES + more))
    assert (client.closed and client.closed.status) == status


@both
@pytest.mark.parametrize("type_url", ["type.example/of.nobody", "*", CLUSTER + "/", CLUSTER.upper()])
def test_unknown_type_is_ignored(variant, type_url):
    client = StreamClient(variant, TABLES)
    assert client.subscribe(type_url, "a", "*") == []
    assert client.request(type_url, nonce="1", error_detail={"message": b"no"}) == []
    assert (client.closed, client.answers, client.stream._subscriptions) == (None, [], {})


# -- state that is kept ------------------------------------------------------------------------------------------------


def _remembered(client):
    """Return the number of entries in each table of a stream."""
    tables = {
        (type_url, field.name): getattr(subscription, field.name)
        for type_url, subscription in client.stream._subscriptions.items()
        for field in fields(subscription)
    }
    tables |= {(type_url, "followers_due"): names for type_url, names in client.stream._followers_due.items()}
    return {key: len(table) for key, table in tables.items() if isinstance(table, (set, dict)) and table}


@both
@pytest.mark.parametrize("type_url", ADDITIONS)
@pytest.mark.parametrize("name", ["a", "missing"])
@pytest.mark.parametrize("more_names", [(), ("*",), ("b",)], ids=["alone", "wildcard", "name"])
def test_repeated_subscribe_and_unsubscribe_keeps_no_state(variant, type_url, name, more_names):
    client = StreamClient(variant, TABLES)
    client.settle(client.subscribe(type_url, *more_names, name))
    sizes = []
    for _ in range(20):
        client.settle(client.subscribe(type_url, name))
        client.settle(client.unsubscribe(type_url, name))
        sizes.append(_remembered(client))
    assert sizes == sizes[:1] * 20
    assert client.closed is None


@both
def test_repeated_unsubscribe_without_answers_keeps_no_state(variant):
    client = StreamClient(variant, TABLES)
    client.subscribe(CLUSTER, "*")
    sizes = []
    for _ in range(20):
        client.subscribe(CLUSTER, "a")
        client.unsubscribe(CLUSTER, "a")
        sizes.append(_remembered(client))
    assert sizes == sizes[:1] * 20


@both
@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT])
def test_client_that_always_nacks_gets_each_version_once(variant, type_url):
    client = StreamClient(variant, {type_url: {"a": "0", "b": "0"}})
    responses = client.subscribe(type_url, "a", "b")
    sizes = []
    for number in range(1, 4 * MAX_NACKED_VERSIONS):
        for response in responses:  # grows during the iteration
            responses += client.nack(response)
        contents = [response.contents for response in responses]
        assert contents == ([{"a": str(number - 1), "b": "0"}] if number == 1 else [{"a": str(number - 1)}])
        assert client.publish(client.tables, known=False) == []
        sizes.append(_remembered(client))
        responses = client.publish({type_url: {"a": str(number), "b": "0"}})
    assert sizes == sizes[:1] * len(sizes)
    (subscription,) = client.stream._subscriptions.values()
    assert {name: len(versions) for name, versions in subscription.nacked.items()} == {"a": MAX_NACKED_VERSIONS, "b": 1}


@pytest.mark.usefixtures("few_names")
@both
def test_rejected_and_removed_names_count_towards_limit(variant):
    client = StreamClient(variant, {CLUSTER: {}})
    client.settle(client.subscribe(CLUSTER))
    for number in range(11):
        (response,) = client.publish({CLUSTER: {f"name-{number}": "1"}})
        client.nack(response)
        client.settle(client.publish({CLUSTER: {}}))
    client.request(CLUSTER)
    assert client.closed.status == "RESOURCE_EXHAUSTED"


@pytest.mark.usefixtures("few_names")
def test_unsent_removals_count_towards_limit():
    client = StreamClient(SOTW, {ENDPOINT: {}})
    client.settle(client.subscribe(ENDPOINT, "*"))
    for number in range(11):
        client.settle(client.publish({ENDPOINT: {f"name-{number}": "1"}}))
        client.settle(client.publish({ENDPOINT: {}}))
    client.request(ENDPOINT)
    assert client.closed.status == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("number", [10, 1_000])
@pytest.mark.parametrize("type_url", [CLUSTER, ENDPOINT, ROUTE])
def test_change_cost_does_not_depend_on_other_resources(number, type_url):
    names = [f"pool/{UUID(int=name)}" for name in range(number)]
    tables = {type_url: dict.fromkeys(names, "1") for type_url in (CLUSTER, ENDPOINT, LISTENER, ROUTE)}
    tables[ROUTE][names[7]] = " ".join(names)
    client = StreamClient(DELTA, tables)
    for each in tables:
        client.settle(client.subscribe(each, "*", *names))
    looked_up = []

    class CountingView(ProxyView):
        def get(self, type_url, name):
            looked_up.append((type_url, name))
            return super().get(type_url, name)

        def names(self, type_url):
            looked_up.append((type_url, "all of them"))
            return super().names(type_url)

    changed = view_of({**tables, type_url: {**tables[type_url], names[7]: " ".join(["2", *names])}}, 2)
    for send in client.stream.publish(CountingView(changed.snapshots), {type_url: {names[7]}}, 0):
        client.request(send.type_url, nonce=send.nonce)
    assert {*looked_up} == {(type_url, names[7]), *([(ENDPOINT, names[7])] if type_url == CLUSTER else [])}
    assert len(looked_up) < 5


# -- random bytes ------------------------------------------------------------------------------------------------------

nonces = st.sampled_from(["", "1", "2", "3", "foreign"])
names = st.lists(st.sampled_from(["a", "b", "c", "*", ""]), max_size=4)
types = st.sampled_from([*ADDITIONS, "", "type.example/of.nobody"])
errors = st.sampled_from([{}, {"error_detail": {"message": b""}}, {"error_detail": {"message": b"a", "code": 3}}])
sotw_requests = st.builds(
    lambda error, **fields: DiscoveryRequest(**fields, **error).SerializeToString(),
    error=errors,
    type_url=types,
    resource_names=names,
    response_nonce=nonces,
    version_info=st.sampled_from(["", "1"]),
)
delta_requests = st.builds(
    lambda error, **fields: DeltaDiscoveryRequest(**fields, **error).SerializeToString(),
    error=errors,
    type_url=types,
    resource_names_subscribe=names,
    resource_names_unsubscribe=names,
    response_nonce=nonces,
    initial_resource_versions=st.dictionaries(st.sampled_from(["a", "b", "gone"]), st.sampled_from(["", "1"])),
)


@st.composite
def damaged(draw, requests):
    """Draw a request with some bytes replaced or cut off."""
    raw = bytearray(draw(requests))
    for _ in range(draw(st.integers(0, 3))):
        if raw:
            raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))]) if draw(st.booleans()) else bytes(raw)


@both
@given(data=st.data())
@settings(max_examples=scaled(80), deadline=None, print_blob=True)
def test_random_bytes_raise_no_exception(variant, data):
    requests = sotw_requests if variant is SOTW else delta_requests
    only = data.draw(st.sampled_from([None, CLUSTER, ENDPOINT]))
    client = StreamClient(variant, TABLES, only=only)
    changes = st.sampled_from([TABLES, {}, {**TABLES, CLUSTER: {"a": "2", "c": "1"}}])
    for raw in data.draw(st.lists(st.binary(max_size=60) | requests | damaged(requests), max_size=12)):
        actions = client.stream.receive(raw, client.now)
        assert {type(action) for action in actions} <= {Send, Answered, Close}
        client.publish(data.draw(changes), known=data.draw(st.booleans()))
        client.wait(1)
