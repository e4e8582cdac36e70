"""What is learnt by reading along: what Envoy accepted, and nothing else."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from agent.ads.config_record import AcceptedResource, AckTracker, ConfigRecord
from xds.translate.names import CLUSTER, ENDPOINT
from xds.wire import discovery_pb2 as wire


def asks(type_url=CLUSTER, names=(), *, nonce="", error=None, gone=(), holds=None) -> bytes:
    message = wire.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce, initial_resource_versions=holds)
    message.resource_names_subscribe.extend(names)
    message.resource_names_unsubscribe.extend(gone)
    if error is not None:
        message.error_detail.message = error
    return message.SerializeToString()


def gives(nonce, type_url=CLUSTER, *, removed=(), **resources) -> bytes:
    """A response of resources, each at a version that is its body too."""
    given = [
        wire.Resource(name=name, version=version, resource=AnyMessage(type_url=type_url, value=version.encode()))
        for name, version in resources.items()
    ]
    message = wire.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, resources=given, removed_resources=removed)
    return message.SerializeToString()


def versions(record, type_url=CLUSTER) -> dict[str, str] | None:
    kept = record.types.get(type_url)
    return None if kept is None else {name: each.version for name, each in kept.items()}


def recorded(type_url=CLUSTER, **resources) -> ConfigRecord:
    record = ConfigRecord()
    record.put(type_url, {name: AcceptedResource(version, version.encode()) for name, version in resources.items()})
    record.changed.clear()
    return record


class Stream:
    """A witness of a stream, and its record."""

    def __init__(self, record: ConfigRecord | None = None) -> None:
        self.record = ConfigRecord() if record is None else record
        self.witness = AckTracker(self.record)

    def ask(self, *args, **more) -> bytes:
        return self.witness.request(asks(*args, **more))

    def accept(self, nonce, type_url=CLUSTER, *, removed=(), **resources) -> None:
        self.witness.response(gives(nonce, type_url, removed=removed, **resources))
        self.ask(type_url, nonce=nonce)


def test_what_is_accepted_is_kept_and_nothing_before():
    stream = Stream()
    stream.ask()
    stream.witness.response(gives("1", a="v1", b="v1"))
    assert stream.record.types == {}

    stream.ask(nonce="1")
    assert stream.record.types == {CLUSTER: {"a": AcceptedResource("v1", b"v1"), "b": AcceptedResource("v1", b"v1")}}
    assert stream.record.changed.is_set()


def test_what_is_rejected_leaves_what_was_accepted_before():
    stream = Stream()
    stream.ask()
    stream.accept("1", a="v1")
    stream.witness.response(gives("2", removed=["a"], b="v2"))
    stream.ask(nonce="2", error="no")
    stream.ask(nonce="2")

    assert versions(stream.record) == {"a": "v1"}


def test_each_response_is_answered_for_itself():
    stream = Stream()
    stream.ask()
    stream.accept("0")
    for nonce, given in (("1", {"a": "v1"}), ("2", {"b": "v1"}), ("3", {"a": "v3"})):
        stream.witness.response(gives(nonce, **given))
    stream.ask(nonce="3")
    stream.ask(nonce="2", error="no")
    stream.ask(nonce="foreign")

    assert versions(stream.record) == {"a": "v3"}


def test_a_removal_that_is_accepted_is_one():
    stream = Stream()
    stream.ask()
    stream.accept("1", a="v1", b="v1")
    stream.accept("2", removed=["a", "never-there"])

    assert versions(stream.record) == {"b": "v1"}


def test_an_answer_that_holds_nothing_is_known_to_be_empty():
    stream = Stream()
    stream.ask()
    assert versions(stream.record) is None

    stream.accept("1")
    assert versions(stream.record) == {}


def test_what_is_given_up_is_forgotten():
    stream = Stream()
    stream.ask(ENDPOINT, ["a", "b"])
    stream.accept("1", ENDPOINT, a="v1", b="v1")
    stream.witness.response(gives("2", ENDPOINT, a="v2", b="v2"))
    stream.ask(ENDPOINT, gone=["a", "a-phantom"])
    stream.ask(ENDPOINT, nonce="2")

    assert versions(stream.record, ENDPOINT) == {"b": "v2"}


def test_what_is_given_up_under_a_wildcard_stays():
    stream = Stream()
    stream.ask(names=["*", "a"])
    stream.accept("1", a="v1", b="v1")
    stream.ask(gone=["a"])
    assert versions(stream.record) == {"a": "v1", "b": "v1"}

    stream.ask(names=["b"], gone=["*"])
    assert versions(stream.record) == {"b": "v1"}


def test_a_stream_that_resumes_keeps_what_envoy_holds_and_drops_the_rest():
    stream = Stream(recorded(held="v1", asked_for="v1", of_before="v1"))
    raw = asks(holds={"held": "v1"}, names=["*", "asked_for"])

    assert stream.witness.request(raw) == raw
    assert versions(stream.record) == {"held": "v1", "asked_for": "v1"}
    stream.accept("1", held="v2")
    assert versions(stream.record) == {"held": "v2", "asked_for": "v1"}


def test_a_new_envoy_takes_the_last_ones_place_only_once_it_was_answered():
    stream = Stream(recorded(of_before="v1", both="v1"))
    stream.ask()
    assert versions(stream.record) == {"of_before": "v1", "both": "v1"}
    stream.accept("1", both="v1")
    stream.accept("2", more="v1")

    assert versions(stream.record) == {"both": "v1", "more": "v1"}


def test_what_envoy_holds_from_a_time_without_witness_is_asked_for_again():
    stream = Stream(recorded(seen="v1", older="v1"))
    passed_on = wire.DeltaDiscoveryRequest.FromString(
        stream.ask(holds={"seen": "v1", "older": "v2", "unseen": "v1"}, names=["*"])
    )

    assert dict(passed_on.initial_resource_versions) == {"seen": "v1", "older": "", "unseen": ""}
    assert passed_on.resource_names_subscribe == ["*"]
    stream.accept("1", older="v2", removed=["unseen"])
    assert versions(stream.record) == {"seen": "v1", "older": "v2"}


def test_the_rest_of_a_request_is_passed_on_as_it_is():
    node = wire.Node(id="n")
    node.MergeFromString(b"\x4a\x03abc")  # user_agent_name, which nobody here reads
    message = wire.DeltaDiscoveryRequest(node=node, type_url=CLUSTER, initial_resource_versions={"unseen": "v1"})
    passed_on = AckTracker(ConfigRecord()).request(message.SerializeToString())

    message.initial_resource_versions["unseen"] = ""
    assert passed_on == message.SerializeToString()
    assert b"abc" in passed_on


def test_what_cannot_be_read_is_passed_on_for_the_other_side_to_judge():
    witness = AckTracker(ConfigRecord())
    witness.response(b"\xff")

    assert witness.request(b"\xff") == b"\xff"


def test_no_news_are_no_change():
    stream = Stream(recorded(a="v1"))
    stream.ask(holds={"a": "v1"})
    stream.accept("1", a="v1", removed=["b"])

    assert not stream.record.changed.is_set()


def test_a_record_is_read_as_it_was_written():
    record = recorded(a="v1", b="v1")
    record.put(ENDPOINT, {})

    assert ConfigRecord.decode(record.encode()).types == record.types
    assert ConfigRecord.decode(b"").types == {}


@pytest.mark.parametrize("raw", [b"\xff", b"\x12\x03\x12\x01\xff"])
def test_what_is_no_record_is_an_error(raw):
    with pytest.raises(ValueError):
        ConfigRecord.decode(raw)
