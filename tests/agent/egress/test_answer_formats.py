"""The parsing of answers from geolocation services."""

from __future__ import annotations

import json

import pytest

from agent.egress.answer_formats import parse_answer
from agent.egress.types import Location, SeenAddress, UnusableAnswer
from tests.agent.egress.conftest import IP_API, IPINFO, SEEN

TRACE = b"fl=47f1\nh=example.net\nip=198.51.100.9\nts=1.5\nuag=curl/8 (x=y)\ncolo=IAD\nloc=US\ntls=off\n"


@pytest.mark.parametrize("answer", [IPINFO, IP_API], ids=["ipinfo", "ip-api"])
def test_both_json_formats_parse_alike(answer):
    assert parse_answer(json.dumps(answer).encode()) == SEEN


def test_trace_has_address_and_country():
    assert parse_answer(TRACE) == SeenAddress("198.51.100.9", Location("us"))


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"loc=US\n", "not JSON"), (b"ip=nowhere\nloc=US\n", "no IP address"), (b"ip=198.51.100.9\n<html>\n", "not JSON")],
)
def test_trace_without_valid_address_is_unusable(body, why):
    with pytest.raises(UnusableAnswer, match=why):
        parse_answer(body)


@pytest.mark.parametrize(
    ("written", "form"), [("2001:DB8:0:0::1", "2001:db8::1"), ("::ffff:198.51.100.9", "198.51.100.9")]
)
def test_address_is_canonical(written, form):
    assert parse_answer(json.dumps(IPINFO | {"ip": written}).encode()).address == form


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>blocked</html>", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"US"', "not a JSON object"),
        (json.dumps({"status": "fail", "message": "reserved range"}).encode(), "it failed: reserved range"),
        (json.dumps({"status": "fail", "message": "a\x1bb"}).encode(), "it failed: no reason given"),
        (json.dumps({"status": 7}).encode(), "it failed: no reason given"),
        (json.dumps(IPINFO | {"ip": "somewhere"}).encode(), "no IP address"),
        (json.dumps(IPINFO | {"ip": 3232235777}).encode(), "no IP address"),
        (json.dumps({"country": "US"}).encode(), "no IP address"),
    ],
)
def test_unusable_answer_has_reason(body, why):
    with pytest.raises(UnusableAnswer, match=why):
        parse_answer(body)


@pytest.mark.parametrize("country", ["United States", "Ü1", None, 7, ["US"], ""])
def test_invalid_country_becomes_none(country):
    assert parse_answer(json.dumps(IPINFO | {"country": country}).encode()).location.country is None


def test_unprintable_text_is_left_out():
    found = parse_answer(json.dumps(IPINFO | {"city": ["x"], "org": "a\nb", "timezone": ""}).encode())
    assert found == SeenAddress("198.51.100.9", Location("us"))
