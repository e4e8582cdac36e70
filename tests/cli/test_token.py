"""Tests of `exitplane token`."""

from __future__ import annotations

import json
import stat
from unittest.mock import Mock

import pytest

from api.features.fleets.schemas import FirstListenerIn, FleetIn
from cli.token import _complete_ref, _describe

pytestmark = pytest.mark.postgres
EXIT = ("token", "create", "--role", "exit", "--fleet", "demo")


@pytest.fixture
async def demo(api):
    await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
    return api


async def test_create_prints_the_token_alone_on_standard_output(demo, exitplane):
    done = await exitplane(*EXIT)
    assert (done.status, done.out[:8], len(done.out.split())) == (0, "ep-exit-", 1)
    assert "one registration, until" in done.err


async def test_create_writes_a_file_that_only_its_owner_reads(demo, exitplane, tmp_path):
    target = tmp_path / "exit.token"
    target.write_text("old")
    target.chmod(0o644)
    done = await exitplane(*EXIT, "--takes-over", "us-1", "--output", str(target))
    assert (done.status, stat.S_IMODE(target.stat().st_mode)) == (0, 0o600)
    assert target.read_text().startswith("ep-exit-")
    assert "one registration of us-1, which it may take over" in done.out
    assert target.read_text().strip() not in done.out + done.err


async def test_uses_and_lifetime_are_raised_in_words(demo, exitplane):
    for words, uses in ((("--uses", "3", "--expires-in", "2d"), 3), (("--unlimited",), None)):
        made = json.loads((await exitplane(*EXIT, *words, "--json")).out)
        assert (made["uses"], made["token"][:8]) == (uses, "ep-exit-")


async def test_list_shows_tokens_and_revoke_ends_them_by_name_or_id(demo, exitplane):
    for name in ("rack-2", "rack-2", "rack-3"):
        assert (await exitplane(*EXIT, "--name", name)).status == 0
    shown = (await exitplane("token", "list", "--fleet", "demo")).out
    assert ("rack-2: any exit" in shown, "1 of 1" in shown, "not used" in shown, "ep-exit-" in shown) == (
        True,
        True,
        True,
        False,
    )
    assert (await exitplane("token", "revoke", "rack-2", "--fleet", "demo")).out.count("revoked ") == 2
    left = [each for each in json.loads((await exitplane("token", "list", "--json")).out) if each["state"] == "valid"]
    done = await exitplane("token", "revoke", left[0]["id"], "--json")
    assert json.loads(done.out) == {"revoked": [left[0]["id"]]}
    assert (await exitplane("token", "list")).out.count("revoked") == 3


def test_list_has_two_short_lines_for_each_token():
    token = {
        "name": "rack-2-spring",
        "id": "3f2a7d9e-0000-4000-8000-000000000000",
        "fleet": "home",
        "role": "gateway",
        "proxy": None,
        "takes_over": False,
        "uses": 12,
        "uses_left": 11,
        "state": "used_up",
        "created_by": "ada",
        "expires_at": "2026-12-01T20:14:05+00:00",
        "last_used_at": "2026-11-30T19:14:05+00:00",
        "last_used_by": "gw",
    }
    assert _describe(token).splitlines() == [
        "rack-2-spring: any gateway of home, 11 of 12 left, used_up, until 2026-12-01 20:14",
        "    3f2a7d9e-0000-4000-8000-000000000000 by ada, last by gw at 2026-11-30 19:14",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--uses", "2", "--unlimited"), "--uses and --unlimited exclude each other; name one of them"),
        (("--takes-over", "us-1", "--uses", "2"), "a takeover is for one registration of one name; leave"),
        (("--expires-in", "soon"), "--expires-in soon: this is not a time; write a number with s, m, h or d"),
        (("--expires-in", "31d"), "/expires_in_s"),
        (("--output", "/no/such/folder/token"), "cannot be written (No such file or directory); name another file"),
    ],
)
async def test_bad_option_is_refused_in_one_line(words, expected, demo, exitplane):
    done = await exitplane(*EXIT, *words)
    assert (done.status, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert expected in done.err


async def test_unknown_fleet_or_token_is_refused_with_a_hint(demo, exitplane):
    done = await exitplane("token", "create", "--role", "exit", "--fleet", "nowhere")
    assert (done.status, "nowhere" in done.err) == (1, True)
    done = await exitplane("token", "revoke", "nothing")
    assert (done.status, "`exitplane token list` shows them" in done.err) == (1, True)


async def test_help_shows_the_cure_for_a_lost_state_folder(exitplane):
    assert "--takes-over us-1" in (await exitplane("token", "create", "--help")).out


def test_completion_without_an_api_is_empty(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert _complete_ref(Mock(params={"api": "http://127.0.0.1:1"}), "") == []
