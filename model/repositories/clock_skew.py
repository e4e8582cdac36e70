"""Times that have not come yet: a clock that was ahead wrote them, and whatever came after would count as older than they."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.tables import ExitHistoryRow, ExitRow, HeartbeatRow, IngestWatermarkRow

MAX_SKEW: Final = timedelta(seconds=30)
"""Clocks of replicas may differ by this much."""


async def clamp_future_times(session: AsyncSession, now: datetime) -> int:
    """Make it now, wherever something was heard or came to a state later than that; says how many exits came to theirs so.

    States keep their order, for which the history has numbers beside its times.
    """
    limit = now + MAX_SKEW
    ahead = select(col(ExitRow.id)).where(col(ExitRow.state_since) > limit)
    exits = (await session.execute(ahead)).scalars().all()
    if exits:
        of_them = col(ExitHistoryRow.exit_id).in_(exits)
        await session.execute(update(ExitHistoryRow).where(of_them, col(ExitHistoryRow.at) > now).values(at=now))
        await session.execute(update(ExitRow).where(col(ExitRow.id).in_(exits)).values(state_since=now))
    await session.execute(update(HeartbeatRow).where(col(HeartbeatRow.heard_at) > limit).values(heard_at=now))
    await session.execute(
        update(IngestWatermarkRow).where(col(IngestWatermarkRow.heard_until) > limit).values(heard_until=now)
    )
    return len(exits)
