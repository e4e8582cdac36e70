"""The Telegram bot with a stand-in for Telegram, and a database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from aiohttp import web

from keeper.telegram.bot import Bot, BotSettings, run_bot
from keeper.telegram.bot_api import BotApi
from tests.telegram import TOKEN, Telegram

pytestmark = pytest.mark.postgres


def now():
    return datetime.now(UTC)


@pytest.fixture
async def telegram():
    """A stand-in for Telegram at `telegram.url`."""
    opened = Telegram()
    app = web.Application()
    app.router.add_post("/bot{token}/{method}", opened.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    opened.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    yield opened
    await runner.cleanup()


@pytest.fixture
async def bot_of(harness, telegram):
    """`bot_of()`: a bot of a replica."""
    async with BotApi(telegram.url, TOKEN) as api:
        yield lambda: Bot(harness.database, now, api, 123456, "exits_bot", {7})


async def test_bot_answers_commands_of_allowed_chats(bot_of, harness, telegram):
    await harness.declare("us-1")
    for text, chat in (("/ping", 7), ("/status", 7), ("/help", 7), ("/dance", 7), ("/status", 666), ("hello", 7)):
        telegram.receive(text, chat)
    await bot_of().answer_updates(0)
    assert [each["chat_id"] for each in telegram.sent] == [7] * 4
    ping, status, help_, unknown = (each["text"] for each in telegram.sent)
    assert ping.startswith("pong from Exitplane")
    assert status == "demo/us: 0 of 1 exits serve (1 registering)"
    assert help_.startswith("/status - ")
    assert unknown.startswith("There is no such command.")
    assert not any("parse_mode" in each for each in telegram.sent)  # nothing is markup


async def test_no_update_is_answered_twice(bot_of, telegram):
    """Two replicas read the same updates before either has confirmed them, and a third one starts later."""
    telegram.receive("/ping")
    await asyncio.gather(bot_of().answer_updates(0), bot_of().answer_updates(0))
    await bot_of().answer_updates(0)
    assert len(telegram.sent) == 1
    telegram.receive("/ping")
    await bot_of().answer_updates(0)
    assert (len(telegram.sent), telegram.updates[0]["update_id"]) == (2, 1001)


async def test_answer_that_is_refused_holds_up_no_other(bot_of, telegram):
    telegram.receive("/ping")
    telegram.receive("/help")
    telegram.refuses_next = ("sendMessage", 403, "Forbidden: bot was blocked by the user")
    await bot_of().answer_updates(0)
    assert [each["text"].partition(" ")[0] for each in telegram.sent] == ["/status"]


async def test_bot_waits_while_telegram_is_away_and_goes_on(harness, telegram, tmp_path, until):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    conflict = {"ok": False, "error_code": 409, "description": "Conflict: terminated by other getUpdates request"}
    flood = {"ok": False, "error_code": 429, "description": "Too Many Requests", "parameters": {"retry_after": 17}}
    telegram.failures = [(409, conflict), (429, flood), (502, "not an object"), (409, conflict)]
    telegram.receive("/ping")
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    settings = BotSettings(tmp_path / "token", frozenset({7}), telegram.url, poll_s=1)
    task = asyncio.create_task(run_bot(harness.database, now, settings, sleep))
    try:
        await until(lambda: telegram.sent)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert pauses == [1, 17, 4, 8]
    assert len(telegram.sent) == 1
