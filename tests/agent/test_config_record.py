"""The config record: it holds exactly what Envoy acknowledged."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from agent.ads.config_record import AcceptedResource, AckTracker, ConfigRecord
from xds.translate.names import CLUSTER, ENDPOINT
from xds.wire import discovery_pb2 as wire


def delta_request(type_url=CLUSTER, names=(), *, nonce="", error=None, unsubscribe=(), holds=None) -> bytes:
    message = wire.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce, initial_resource_versions=holds)
    message.resource_names_subscribe.extend(names)
    message.resource_names_unsubscribe.extend(unsubscribe)
    if error is not None:
        message.error_detail.message = error.encode()
    return message.SerializeToString()


def delta_response(nonce, type_url=CLUSTER, *, removed=(), **resources) -> bytes:
    """Build a response with resources whose body equals their version."""
    encoded = [
        wire.Resource(name=name, version=version, resource=AnyMessage(type_url=type_url, value=version.encode()))
        for name, version in resources.items()
    ]
    message = wire.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, resources=encoded, removed_resources=removed)
    return message.SerializeToString()


def versions(record, type_url=CLUSTER) -> dict[str, str] | None:
    kept = record.types.get(type_url)
    return None if kept is None else {name: each.version for name, each in kept.items()}


def recorded(type_url=CLUSTER, **resources) -> ConfigRecord:
    record = ConfigRecord()
    record.update(type_url, {name: AcceptedResource(version, version.encode()) for name, version in resources.items()})
    record.changed.clear()
    return record


class Stream:
    """The tracker of a stream, and its record."""

    def __init__(self, record: ConfigRecord | None = None) -> None:
        self.record = ConfigRecord() if record is None else record
        self.tracker = AckTracker(self.record)

    def send(self, *args, **more) -> bytes:
        return self.tracker.track_request(delta_request(*args, **more))

    def accept(self, nonce, type_url=CLUSTER, *, removed=(), **resources) -> None:
        self.tracker.track_response(delta_response(nonce, type_url, removed=removed, **resources))
        self.send(type_url, nonce=nonce)


def test_ack_records_resources():
    stream = Stream()
    stream.send()
    stream.tracker.track_response(delta_response("1", a="v1", b="v1"))
    assert stream.record.types == {}

    stream.send(nonce="1")
    assert stream.record.types == {CLUSTER: {"a": AcceptedResource("v1", b"v1"), "b": AcceptedResource("v1", b"v1")}}
    assert stream.record.changed.is_set()


def test_nack_keeps_previous_resources():
    stream = Stream()
    stream.send()
    stream.accept("1", a="v1")
    stream.tracker.track_response(delta_response("2", removed=["a"], b="v2"))
    stream.send(nonce="2", error="no")
    stream.send(nonce="2")

    assert versions(stream.record) == {"a": "v1"}


def test_ack_applies_to_response_of_its_nonce():
    stream = Stream()
    stream.send()
    stream.accept("0")
    for nonce, given in (("1", {"a": "v1"}), ("2", {"b": "v1"}), ("3", {"a": "v3"})):
        stream.tracker.track_response(delta_response(nonce, **given))
    stream.send(nonce="3")
    stream.send(nonce="2", error="no")
    stream.send(nonce="foreign")

    assert versions(stream.record) == {"a": "v3"}


def test_acknowledged_removal_drops_resource():
    stream = Stream()
    stream.send()
    stream.accept("1", a="v1", b="v1")
    stream.accept("2", removed=["a", "never-there"])

    assert versions(stream.record) == {"b": "v1"}


def test_acknowledged_empty_response_records_empty_type():
    stream = Stream()
    stream.send()
    assert versions(stream.record) is None

    stream.accept("1")
    assert versions(stream.record) == {}


def test_unsubscribed_resource_is_dropped():
    stream = Stream()
    stream.send(ENDPOINT, ["a", "b"])
    stream.accept("1", ENDPOINT, a="v1", b="v1")
    stream.tracker.track_response(delta_response("2", ENDPOINT, a="v2", b="v2"))
    stream.send(ENDPOINT, unsubscribe=["a", "a-stranger"])
    stream.send(ENDPOINT, nonce="2")

    assert versions(stream.record, ENDPOINT) == {"b": "v2"}


def test_unsubscribed_name_stays_under_wildcard():
    stream = Stream()
    stream.send(names=["*", "a"])
    stream.accept("1", a="v1", b="v1")
    stream.send(unsubscribe=["a"])
    assert versions(stream.record) == {"a": "v1", "b": "v1"}

    stream.send(names=["b"], unsubscribe=["*"])
    assert versions(stream.record) == {"b": "v1"}


def test_resumed_stream_keeps_stated_and_subscribed_resources():
    stream = Stream(recorded(held="v1", asked_for="v1", of_before="v1"))
    raw = delta_request(holds={"held": "v1"}, names=["*", "asked_for"])

    assert stream.tracker.track_request(raw) == raw
    assert versions(stream.record) == {"held": "v1", "asked_for": "v1"}
    stream.accept("1", held="v2")
    assert versions(stream.record) == {"held": "v2", "asked_for": "v1"}


def test_new_envoy_replaces_record_with_its_first_ack():
    stream = Stream(recorded(of_before="v1", both="v1"))
    stream.send()
    assert versions(stream.record) == {"of_before": "v1", "both": "v1"}
    stream.accept("1", both="v1")
    stream.accept("2", more="v1")

    assert versions(stream.record) == {"both": "v1", "more": "v1"}


def test_unknown_stated_versions_are_emptied():
    stream = Stream(recorded(seen="v1", older="v1"))
    passed_on = wire.DeltaDiscoveryRequest.FromString(
        stream.send(holds={"seen": "v1", "older": "v2", "unseen": "v1"}, names=["*"])
    )

    assert dict(passed_on.initial_resource_versions) == {"seen": "v1", "older": "", "unseen": ""}
    assert passed_on.resource_names_subscribe == ["*"]
    stream.accept("1", older="v2", removed=["unseen"])
    assert versions(stream.record) == {"seen": "v1", "older": "v2"}


def test_changed_request_keeps_other_fields():
    node = b"\x0a\x01n\x4a\x03abc"  # id, and user_agent_name, which no code here reads
    message = wire.DeltaDiscoveryRequest(node=node, type_url=CLUSTER, initial_resource_versions={"unseen": "v1"})
    passed_on = AckTracker(ConfigRecord()).track_request(message.SerializeToString())

    message.initial_resource_versions["unseen"] = ""
    assert passed_on == message.SerializeToString()
    assert b"abc" in passed_on


def test_rejection_that_is_not_utf8_is_no_ack():
    stream = Stream(recorded(a="v1"))
    stream.send(holds={"a": "v1"})
    stream.tracker.track_response(delta_response("1", a="v2"))
    message = wire.DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce="1")
    raw = message.SerializeToString() + b"\x3a\x04\x12\x02n\xc3"  # Envoy cuts its error inside a character
    assert stream.tracker.track_request(raw) == raw

    stream.send(nonce="1")  # the first answer counts
    assert versions(stream.record) == {"a": "v1"}


def test_undecodable_message_is_relayed_unchanged():
    tracker = AckTracker(ConfigRecord())
    tracker.track_response(b"\xff")

    assert tracker.track_request(b"\xff") == b"\xff"


def test_equal_resources_set_no_change_event():
    stream = Stream(recorded(a="v1"))
    stream.send(holds={"a": "v1"})
    stream.accept("1", a="v1", removed=["b"])

    assert not stream.record.changed.is_set()


def test_encoded_record_decodes_to_equal_record():
    record = recorded(a="v1", b="v1")
    record.update(ENDPOINT, {})

    assert ConfigRecord.decode(record.encode()).types == record.types
    assert ConfigRecord.decode(b"").types == {}


@pytest.mark.parametrize("raw", [b"\xff", b"\x12\x03\x12\x01\xff"])
def test_undecodable_record_raises_value_error(raw):
    with pytest.raises(ValueError):
        ConfigRecord.decode(raw)
