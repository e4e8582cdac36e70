"""The leased worker that answers commands in Telegram. The clock is injected.

The position in the updates is stored before anything is answered, so no update is answered twice, whichever replica goes on. An
update whose answer was under way when the process ended is not answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from keeper.lease import TELEGRAM_LEASE_ID, LeaseCheck, hold_lease, run_while_leased
from keeper.telegram import bot_commands
from keeper.telegram.bot_api import POLL_S, BotApi, TelegramRefused
from keeper.telegram.bot_commands import AnswerLimit, Command
from model.database import Database
from model.repositories import message_facts, messages, telegram
from model.version import exitplane_version

_BACKOFF_MIN_S: Final = 1.0
_BACKOFF_MAX_S: Final = 60.0
_RETRY_AFTER_MAX_S: Final = 300.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BotSettings:
    """Settings of the bot: the file with its token, the chats that it answers in, and the URL of Telegram's API."""

    token_file: Path
    chats: frozenset[int]
    base_url: str
    poll_s: float = POLL_S

    def read_token(self) -> str:
        """Read the token. Raises OSError and UnicodeDecodeError."""
        return self.token_file.read_text().strip()


async def run_bot(
    database: Database,
    clock: Callable[[], datetime],
    settings: BotSettings,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Answer commands whenever this replica holds the bot's lease, until cancelled."""

    async def work(check_lease: LeaseCheck) -> None:
        await run_while_leased(check_lease, _answer_forever(database, clock, settings, sleep))

    await hold_lease(database, work, TELEGRAM_LEASE_ID)


async def _answer_forever(
    database: Database,
    clock: Callable[[], datetime],
    settings: BotSettings,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Answer commands. While Telegram is away or refuses, try again after pauses that double up to a minute."""
    pause_s = _BACKOFF_MIN_S
    while True:
        try:
            token = await asyncio.to_thread(settings.read_token)  # a file that was replaced is read
            async with BotApi(settings.base_url, token) as api:
                bot_id, name = await api.get_me()
                log.info("telegram.started", bot=name)
                bot = Bot(database, clock, api, bot_id, name, settings.chats)
                while True:
                    await bot.answer_updates(settings.poll_s)
                    pause_s = _BACKOFF_MIN_S
        except (TelegramRefused, OSError, UnicodeDecodeError) as error:
            asked_s = error.retry_after_s if isinstance(error, TelegramRefused) else 0
            log.warning("telegram.away", reason=str(error))
            await sleep(min(max(pause_s, asked_s), _RETRY_AFTER_MAX_S))
            pause_s = min(pause_s * 2, _BACKOFF_MAX_S)


class Bot:
    """The bot of one token, at the holder of its lease."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime],
        api: BotApi,
        bot_id: int,
        name: str,
        chats: Collection[int],
    ) -> None:
        self._database = database
        self._clock = clock
        self._api = api
        self._bot_id = bot_id
        self._name = name
        self._chats = chats
        self._limit = AnswerLimit()

    async def answer_updates(self, poll_s: float) -> None:
        """Wait for updates and answer their commands. Raises TelegramRefused and DatabaseUnreachable."""
        async with self._database.session() as session:
            offset = await telegram.next_update(session, self._bot_id)
        updates = [each for each in await self._api.get_updates(offset, poll_s) if _id_of(each) is not None]
        fresh = [each for each in updates if each["update_id"] >= offset]
        if not fresh:
            return
        async with self._database.session() as session:
            last = max(each["update_id"] for each in fresh)
            if not await telegram.advance(session, self._bot_id, offset, last + 1):
                return  # another replica answers them
        for update in fresh:
            now = self._clock()
            command = bot_commands.command_of(update, self._name, self._chats, now)
            if command is not None and self._limit.admit(command.chat, now):
                await self._answer(command)

    async def _answer(self, command: Command) -> None:
        text = await self._text_of(command.name)
        try:
            await self._api.send_message(command.chat, text)
        except TelegramRefused as error:
            log.warning("telegram.not_answered", command=command.name, reason=error.message)

    async def _text_of(self, name: str) -> str:
        if name in ("help", "start"):
            return bot_commands.help_text()
        if name not in bot_commands.COMMANDS:
            return bot_commands.unknown_text()
        async with self._database.snapshot() as session:
            await session.connection()
            if name == "ping":
                return f"pong from Exitplane {exitplane_version()}, revision {await message_facts.revision(session)}"
            pools = await message_facts.pool_states(session)
            return bot_commands.status_text(pools, await messages.count_open(session))


def _id_of(update: Any) -> int | None:
    found = update.get("update_id") if isinstance(update, dict) else None
    return found if type(found) is int and 0 <= found < 2**62 else None
