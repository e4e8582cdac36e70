"""The position of the Telegram bot in its updates."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model.tables import TelegramBotRow

_ADVANCE = text(
    """
    INSERT INTO telegram_bot AS known (bot_id, next_update) VALUES (:bot_id, :new)
    ON CONFLICT (bot_id) DO UPDATE SET next_update = excluded.next_update WHERE known.next_update = :old
    RETURNING bot_id
    """
)


async def next_update(session: AsyncSession, bot_id: int) -> int:
    """Return the id of the first update that is to be answered; 0 for a bot that answered none."""
    row = await session.get(TelegramBotRow, bot_id)
    return row.next_update if row else 0


async def advance(session: AsyncSession, bot_id: int, old: int, new: int) -> bool:
    """Move the position. Return False when another replica moved it since `old` was read."""
    return (await session.execute(_ADVANCE, {"bot_id": bot_id, "old": old, "new": new})).first() is not None
