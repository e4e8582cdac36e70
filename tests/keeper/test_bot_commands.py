"""Commands of the Telegram bot: which updates are answered, and the texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from keeper.telegram.bot_commands import (
    ANSWERS_MAX,
    TEXT_CHARS_MAX,
    AnswerLimit,
    Command,
    command_of,
    status_text,
)
from tests.scale import scaled

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def update(text="/status", chat=7, age_s=0, **fields):
    message = {"chat": {"id": chat}, "text": text, "date": int(NOW.timestamp()) - age_s}
    return {"update_id": 1, "message": message | fields}


@pytest.mark.parametrize(
    ("given_update", "name"),
    [
        (update(), "status"),
        (update("/PING please"), "ping"),
        (update("/help@Exits_Bot"), "help"),
        (update("/nonsense"), "nonsense"),
        (update(age_s=299), "status"),
        (update(age_s=301), None),  # it waited while the control plane was away
        (update(chat=8), None),
        (update(chat="7"), None),
        (update(chat=True), None),
        (update("/help@other_bot"), None),
        (update("status"), None),
        (update("/"), None),
        (update("/sta\ntus"), "sta"),
        (update("/status-now"), None),
        (update("/" + "a" * 33), None),
        (update(None), None),
        (update(date="today"), None),
        (update(date=-(2**70)), None),
        ({"update_id": 1, "edited_message": update()["message"]}, None),
        ({"message": {"chat": 7}}, None),
        (None, None),
    ],
)
def test_only_commands_of_allowed_chats_are_answered(given_update, name):
    found = command_of(given_update, "exits_bot", {7, 1}, NOW)
    assert found == (None if name is None else Command(7, name))


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(some.sampled_from(["message", "chat", "id", "text", "date"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=scaled(60))
@given(JSON)
def test_malformed_update_is_no_command(value):
    assert command_of(value, "exits_bot", set(), NOW) is None


def test_flood_of_commands_gets_bounded_answers():
    limit = AnswerLimit()
    assert sum(limit.admit(7, NOW) for _ in range(1_000)) == ANSWERS_MAX
    assert limit.admit(8, NOW)
    assert limit.admit(7, NOW + timedelta(minutes=1))


def test_status_counts_serving_exits_by_pool():
    rows = [
        {"fleet": "demo", "pool": "de", "state": None, "exits": 0},
        {"fleet": "demo", "pool": "us", "state": "degraded", "exits": 1},
        {"fleet": "demo", "pool": "us", "state": "healthy", "exits": 2},
        {"fleet": "demo", "pool": "us", "state": "leaking", "exits": 1},
    ]
    assert status_text(rows, 3) == (
        "demo/de: 0 of 0 exits serve\ndemo/us: 3 of 4 exits serve (1 leaking)\n3 messages wait for their delivery."
    )
    assert status_text([], 0) == "There is no pool."


def test_status_of_many_pools_fits_a_message():
    rows = [{"fleet": "f" * 63, "pool": f"{'p' * 60}{n}", "state": "lost", "exits": 1} for n in range(500)]
    assert len(status_text(rows, 0)) <= TEXT_CHARS_MAX
