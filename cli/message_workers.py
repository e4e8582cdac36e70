"""The workers of messages in a control plane: rules with their deliveries, and the Telegram bot where it is configured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from keeper.messages.message_counters import MessageCounters
from keeper.messages.worker import run_messages
from keeper.telegram.bot import BotSettings, run_bot
from model.database import Database
from model.settings import BadSettings, Settings


def bot_settings(settings: Settings) -> BotSettings | None:
    """Return the settings of the Telegram bot; None without one. Raises BadSettings."""
    path, chats = settings.telegram_token_file, settings.telegram_chat_ids
    if path is None:
        return None
    if not chats:
        raise BadSettings(
            "EXITPLANE_TELEGRAM_TOKEN_FILE without EXITPLANE_TELEGRAM_CHATS",
            hint="list the ids of the chats in which the bot answers, with commas",
        )
    found = BotSettings(path, chats, settings.telegram_api)
    try:
        mode, token = path.stat().st_mode, found.read_token()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(
            f"EXITPLANE_TELEGRAM_TOKEN_FILE={str(path)!r} cannot be read ({error})", hint="name a file with the token"
        ) from error
    if mode & 0o077:
        raise BadSettings(f"others can read {path} (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}")
    if not token or not token.isascii() or any(each in token for each in "/?# \n"):
        raise BadSettings(f"{path} does not hold a token", hint="write what @BotFather gave, and nothing else")
    return found


@asynccontextmanager
async def message_workers(
    database: Database, settings: Settings, clock: Callable[[], datetime], counters: MessageCounters
) -> AsyncIterator[None]:
    """Run the workers while the block lasts. Raises BadSettings."""
    bot = bot_settings(settings)
    async with asyncio.TaskGroup() as tasks:
        work = run_messages(database, clock, counters, allows_local=settings.local_channels)
        running = [tasks.create_task(work, name="messages")]
        if bot is not None:
            running.append(tasks.create_task(run_bot(database, clock, bot), name="telegram"))
        try:
            yield
        finally:
            for each in running:
                each.cancel()
