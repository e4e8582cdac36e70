"""The credentials that the gateway's script hands to the filter that compares them, in LuaJIT, and the parts of users."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.entities import user_shard
from model.user_secrets import generate_secret, next_slot
from tests.fuzz.lua_script import LuaScript
from xds.translate.gateway_filters import CLIENT_INTENT_SCRIPT

SCRIPT = LuaScript(f"local LISTENER = {{countries={{}}, authenticates=true}}\n{CLIENT_INTENT_SCRIPT}")


def hand_over(credentials: bytes) -> tuple[bytes, bytes | None]:
    """Return the part and the credentials that the script writes for these."""
    encoded = b"Basic " + base64.b64encode(credentials)
    request = {
        b":method": b"GET",
        b":authority": b"a.example",
        b"x-ep-user": b"forged",
        b"proxy-authorization": encoded,
    }
    headers = SCRIPT.run(request).headers
    assert b"x-ep-user" not in headers
    written = headers.get(b"proxy-authorization")
    return headers[b"x-ep-shard"], written and base64.b64decode(written.removeprefix(b"Basic "))


@given(st.from_regex(r"[a-z0-9_.]{1,63}", fullmatch=True))
def test_script_and_world_find_a_user_in_the_same_part(name):
    shard, written = hand_over(f"{name}:bsecret".encode())
    assert (int(shard), written) == (user_shard(name), f"{name}/b:bsecret".encode())


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ("Alice-country-us-session-x:asecret", "alice/a:asecret"),
        ("alice:a:b", "alice/a:a:b"),
        ("alice", "alice/-:"),
        (":asecret", "/a:asecret"),
        ("alice/b:asecret", "alice/b/a:asecret"),
        ("al\nice:asecret", "al?ice/a:asecret"),
        ("alice:-", "alice/-:-"),
    ],
)
def test_first_character_of_the_secret_is_part_of_the_name(credentials, expected):
    assert hand_over(credentials.encode())[1] == expected.encode()


def test_slot_of_a_secret_is_free_and_another_than_the_last():
    assert [next_slot(None, ()), next_slot("a", "a"), next_slot("z", "z"), next_slot("a", "ab")] == ["a", "b", "a", "c"]


def test_secrets_have_their_slot_ahead_of_128_random_bits():
    made = {generate_secret("q") for _ in range(100)}
    assert (len(made), {len(each) for each in made}, {each[0] for each in made}) == (100, {27}, {"q"})
