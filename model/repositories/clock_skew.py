"""Correction of timestamps in the future, which a clock that was ahead wrote. Newer events would count as older than them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.tables import ExitHistoryRow, ExitRow, HeartbeatRow, IngestWatermarkRow

MAX_SKEW: Final = timedelta(seconds=30)
"""The tolerated difference between the clocks of replicas."""


async def clamp_future_times(session: AsyncSession, now: datetime) -> int:
    """Clamp timestamps that lie in the future to `now`. Return the number of exits whose state began in the future.

    The history keeps its order, because its rows have numbers besides their times.
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
