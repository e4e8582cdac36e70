"""What services that tell a caller its address say, and what of that is believed."""

from __future__ import annotations

import json

import pytest

from agent.egress.answer_formats import read_answer
from agent.egress.types import Location, SeenAddress, UnusableAnswer
from tests.agent.egress.conftest import IP_API, IPINFO, SEEN

TRACE = b"fl=47f1\nh=example.net\nip=198.51.100.9\nts=1.5\nuag=curl/8 (x=y)\ncolo=IAD\nloc=US\ntls=off\n"


@pytest.mark.parametrize("said", [IPINFO, IP_API], ids=["ipinfo", "ip-api"])
def test_both_formats_say_the_same(said):
    assert read_answer(json.dumps(said).encode()) == SEEN


def test_a_trace_names_address_and_country():
    assert read_answer(TRACE) == SeenAddress("198.51.100.9", Location("us"))


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"loc=US\n", "no JSON"), (b"ip=nowhere\nloc=US\n", "no IP address"), (b"ip=198.51.100.9\n<html>\n", "no JSON")],
)
def test_a_trace_without_an_address_is_none(body, why):
    with pytest.raises(UnusableAnswer, match=why):
        read_answer(body)


@pytest.mark.parametrize(
    ("written", "form"), [("2001:DB8:0:0::1", "2001:db8::1"), ("::ffff:198.51.100.9", "198.51.100.9")]
)
def test_an_address_has_one_form(written, form):
    assert read_answer(json.dumps(IPINFO | {"ip": written}).encode()).address == form


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>blocked</html>", "no JSON"),
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no JSON object"),
        (b'"US"', "no JSON object"),
        (json.dumps({"status": "fail", "message": "reserved range"}).encode(), "it failed: reserved range"),
        (json.dumps({"status": "fail", "message": "a\x1bb"}).encode(), "it failed: it does not say why"),
        (json.dumps({"status": 7}).encode(), "it failed: it does not say why"),
        (json.dumps(IPINFO | {"ip": "somewhere"}).encode(), "no IP address"),
        (json.dumps(IPINFO | {"ip": 3232235777}).encode(), "no IP address"),
        (json.dumps({"country": "US"}).encode(), "no IP address"),
    ],
)
def test_what_is_of_no_use_is_named(body, why):
    with pytest.raises(UnusableAnswer, match=why):
        read_answer(body)


@pytest.mark.parametrize("country", ["United States", "Ü1", None, 7, ["US"], ""])
def test_a_country_that_is_none_leaves_an_address_without_one(country):
    assert read_answer(json.dumps(IPINFO | {"country": country}).encode()).place.country is None


def test_what_is_no_text_is_left_out_and_the_rest_is_believed():
    found = read_answer(json.dumps(IPINFO | {"city": ["x"], "org": "a\nb", "timezone": ""}).encode())
    assert found == SeenAddress("198.51.100.9", Location("us"))
