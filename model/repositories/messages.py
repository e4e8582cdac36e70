"""Message rules, their memory, and messages with their deliveries. They are not configuration, so writes make no revision."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import and_, delete, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.database import fetch_in
from model.tables import (
    ChannelRow,
    KnownEgressRow,
    MessageMemoryRow,
    MessagePositionRow,
    MessageRow,
    MessageRuleChannelRow,
    MessageRuleRow,
)

PENDING, SENDING, SENT, FAILED = "pending", "sending", "sent", "failed"
_POSITION: Final = 1
_ADVANCE: Final = text(
    """
    INSERT INTO message_position AS known (id, change_id, round) VALUES (1, :change_id, 1)
    ON CONFLICT (id) DO UPDATE SET change_id = excluded.change_id, round = known.round + 1 WHERE known.round = :round
    RETURNING round
    """
)


@dataclass(frozen=True, slots=True)
class Position:
    """The progress of evaluation: the change up to which rules know everything, and the number of the last evaluation."""

    change_id: int
    round: int


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """A message that is to be sent now. `attempt` counts from 1."""

    id: int
    created_at: datetime
    rule: str
    channel_id: UUID
    content: Mapping[str, Any]
    attempt: int


async def enabled_rules(session: AsyncSession) -> Sequence[MessageRuleRow]:
    """Return the enabled rules, by name."""
    query = select(MessageRuleRow).where(col(MessageRuleRow.enabled)).order_by(col(MessageRuleRow.name))
    return (await session.execute(query)).scalars().all()


async def memories(session: AsyncSession) -> Mapping[tuple[UUID, str], Mapping[str, Any]]:
    """Return what rules remember, by rule and subject."""
    rows = (await session.execute(select(MessageMemoryRow))).scalars()
    return {(row.rule_id, row.subject): row.memory for row in rows}


async def position(session: AsyncSession) -> Position | None:
    """Return where evaluation stands; None before the first one."""
    row = await session.get(MessagePositionRow, _POSITION)
    return None if row is None else Position(row.change_id, row.round)


async def advance(session: AsyncSession, before: Position | None, change_id: int) -> bool:
    """Begin to store an evaluation. Return False when another replica stored one since `before` was read.

    The row stays locked until the transaction ends, so that evaluations are stored one after the other.
    """
    given = {"change_id": change_id, "round": before.round if before else 0}
    return (await session.execute(_ADVANCE, given)).first() is not None


async def store_memories(
    session: AsyncSession, changed: Mapping[tuple[UUID, str], Mapping[str, Any]], gone: Collection[tuple[UUID, str]]
) -> None:
    """Store what rules remember from now on, and delete what they forget. Those of rules that were deleted are dropped."""
    key = tuple_(col(MessageMemoryRow.rule_id), col(MessageMemoryRow.subject))
    if gone:
        await session.execute(delete(MessageMemoryRow).where(key.in_([*gone])))
    rules = select(col(MessageRuleRow.id)).where(col(MessageRuleRow.id).in_({rule for rule, _ in changed}))
    known = set((await session.execute(rules.with_for_update(key_share=True))).scalars()) if changed else set()
    rows = [
        {"rule_id": rule, "subject": subject, "memory": memory}
        for (rule, subject), memory in changed.items()
        if rule in known
    ]
    if rows:
        statement = insert(MessageMemoryRow)
        fields = {"memory": statement.excluded["memory"]}
        await session.execute(statement.on_conflict_do_update(index_elements=["rule_id", "subject"], set_=fields), rows)


async def store_egresses(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store the addresses and countries that rules were told of. Exits that were deleted meanwhile are left out."""
    await fetch_in(
        session,
        """
        INSERT INTO known_egress AS known (exit_id, address, country)
        SELECT exit.id, new.address, new.country
        FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new (id, address, country) JOIN exit ON exit.id = new.id
        ON CONFLICT (exit_id) DO UPDATE
            SET address = excluded.address, country = coalesce(excluded.country, known.country)
        """,
        [row["id"] for row in rows],
        [row["address"] for row in rows],
        [row["country"] for row in rows],
    )


async def has_egresses(session: AsyncSession) -> bool:
    """Tell whether any address of an exit is known."""
    return (await session.execute(select(col(KnownEgressRow.exit_id)).limit(1))).first() is not None


async def forget_egresses(session: AsyncSession) -> None:
    """Delete the known addresses and countries, because no rule is about them any more."""
    await session.execute(delete(KnownEgressRow))


async def channels_of(session: AsyncSession, rule_ids: Collection[UUID]) -> Mapping[UUID, list[tuple[UUID, str]]]:
    """Return the ids and names of the channels of rules, by rule."""
    query = (
        select(col(MessageRuleChannelRow.rule_id), col(ChannelRow.id), col(ChannelRow.name))
        .join(ChannelRow, col(ChannelRow.id) == col(MessageRuleChannelRow.channel_id))
        .where(col(MessageRuleChannelRow.rule_id).in_(rule_ids))
        .order_by(col(ChannelRow.name))
    )
    found: dict[UUID, list[tuple[UUID, str]]] = {}
    for rule_id, channel_id, name in (await session.execute(query)).all():
        found.setdefault(rule_id, []).append((channel_id, name))
    return found


async def set_channels(session: AsyncSession, rule_id: UUID, channel_ids: Collection[UUID]) -> None:
    """Store the channels of a rule."""
    await session.execute(delete(MessageRuleChannelRow).where(col(MessageRuleChannelRow.rule_id) == rule_id))
    session.add_all(MessageRuleChannelRow(rule_id=rule_id, channel_id=each) for each in channel_ids)
    await session.flush()


async def enqueue(
    session: AsyncSession, rule: str, channels: Sequence[tuple[UUID, str]], content: Mapping[str, Any], now: datetime
) -> Sequence[MessageRow]:
    """Store a message for each channel, to be sent at once, and return them."""
    rows = [
        MessageRow(created_at=now, rule=rule, channel_id=id_, channel=name, content=dict(content), due_at=now)
        for id_, name in channels
    ]
    session.add_all(rows)
    await session.flush()
    return rows


async def claim(
    session: AsyncSession, now: datetime, until: datetime, busy: Collection[UUID], limit: int
) -> Sequence[ClaimedMessage]:
    """Take the oldest due message of each channel that is not busy. Nobody else takes it before `until`.

    A message that another replica took and did not finish until then is due again.
    """
    is_due = and_(col(MessageRow.state).in_((PENDING, SENDING)), col(MessageRow.due_at) <= now)
    place = func.row_number().over(
        partition_by=col(MessageRow.channel_id), order_by=(col(MessageRow.due_at), col(MessageRow.id))
    )
    ranked = (
        select(col(MessageRow.id), place.label("place"))
        .where(is_due, col(MessageRow.channel_id).is_not(None), col(MessageRow.channel_id).not_in(busy))
        .subquery()
    )
    oldest = select(ranked.c.id).where(ranked.c.place == 1).order_by(ranked.c.id).limit(limit)
    # `is_due` again: the row is checked anew after a wait for another replica that takes it
    taken = update(MessageRow).where(col(MessageRow.id).in_(oldest), is_due)
    taken = taken.values(state=SENDING, attempts=col(MessageRow.attempts) + 1, due_at=until)
    columns = (MessageRow.id, MessageRow.created_at, MessageRow.rule, MessageRow.channel_id, MessageRow.content)
    returned = taken.returning(*map(col, columns), col(MessageRow.attempts))
    return [ClaimedMessage(*row) for row in (await session.execute(returned)).all()]


async def finish(session: AsyncSession, message: ClaimedMessage, **fields: Any) -> bool:
    """Store the outcome of an attempt. Return False when another replica has taken the message meanwhile."""
    statement = update(MessageRow).where(
        col(MessageRow.id) == message.id,
        col(MessageRow.state) == SENDING,
        col(MessageRow.attempts) == message.attempt,
    )
    return (await session.execute(statement.values(**fields).returning(col(MessageRow.id)))).first() is not None


async def find_channel(session: AsyncSession, channel_id: UUID) -> ChannelRow | None:
    return await session.get(ChannelRow, channel_id)


async def fail_orphans(session: AsyncSession) -> None:
    """End the messages whose channel was deleted before they were sent."""
    open_ones = update(MessageRow).where(
        col(MessageRow.channel_id).is_(None), col(MessageRow.state).in_((PENDING, SENDING))
    )
    await session.execute(open_ones.values(state=FAILED, error="the channel was deleted"))


async def prune(session: AsyncSession, *, before: datetime) -> None:
    """Delete messages from before a time that are sent or given up."""
    ended = col(MessageRow.state).in_((SENT, FAILED))
    await session.execute(delete(MessageRow).where(col(MessageRow.created_at) < before, ended))


async def count_open(session: AsyncSession) -> int:
    """Count the messages that are neither sent nor given up."""
    query = select(func.count()).where(col(MessageRow.state).in_((PENDING, SENDING)))
    return int((await session.execute(query)).scalar_one())


async def save(session: AsyncSession, row: ChannelRow | MessageRuleRow) -> None:
    """Add a row. Raises sqlalchemy.exc.IntegrityError, with the constraint's name, when it clashes with another."""
    session.add(row)
    await session.flush()


async def save_changes(
    session: AsyncSession, row: ChannelRow | MessageRuleRow, fields: Mapping[str, Any]
) -> Sequence[str]:
    """Give a row new values, and return the names of those that differ."""
    changed = [name for name, value in fields.items() if getattr(row, name) != value]
    for name in changed:
        setattr(row, name, fields[name])
    await session.flush()
    return changed


async def remove(session: AsyncSession, row: ChannelRow | MessageRuleRow) -> None:
    """Delete a row. Raises sqlalchemy.exc.IntegrityError while others refer to it."""
    await session.delete(row)
    await session.flush()
