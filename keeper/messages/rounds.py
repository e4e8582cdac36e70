"""One evaluation of all message rules: read what is recorded, evaluate, and store memories and messages in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from keeper.lease import LEASE_ID
from keeper.messages import facts
from keeper.messages.evaluation import (
    EMPTY,
    Conditions,
    MessageRule,
    Subject,
    SubjectMemory,
    evaluate,
    from_json,
    matches,
    to_json,
)
from keeper.messages.message_counters import MessageCounters
from keeper.messages.texts import Told, write_message
from model.database import Database
from model.message_events import FAULTS, MOMENTS, MessageEvent
from model.repositories import message_facts, messages
from model.repositories.messages import Position
from model.tables import MessageRuleRow

IDLE_EVERY: Final = timedelta(seconds=30)
"""Longer than the interval of heartbeats, which carry the traffic of exits."""
Key = tuple[UUID, str]


@dataclass(slots=True)
class Evaluated:
    """The outcome of an evaluation."""

    messages: list[tuple[MessageRule, Mapping[str, Any]]] = field(default_factory=list)
    changed: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    """Memories that differ from the stored ones."""
    gone: list[Key] = field(default_factory=list)
    events: list[MessageEvent] = field(default_factory=list)
    """The events that messages tell of, for the metrics."""


@dataclass(frozen=True, slots=True)
class _Read:
    """All that one evaluation reads, at one point in time."""

    position: Position | None
    newest: int
    rules: Sequence[MessageRule]
    memories: Mapping[Key, SubjectMemory]
    conditions: Mapping[Subject, Conditions]
    moved: Sequence[Mapping[str, Any]]
    """Exits with an address or country that is new."""
    forgets_egresses: bool = False
    """Addresses are known of which no rule is told any more, and which would be old when one is again."""


class MessageRounds:
    """The evaluations of one holder of the lease."""

    def __init__(self, database: Database, clock: Callable[[], datetime], counters: MessageCounters) -> None:
        self._database = database
        self._clock = clock
        self._counters = counters
        self._idle = facts.IdleWatch()
        self._idle_looked_at: datetime | None = None

    async def run(self) -> None:
        """Evaluate all rules once, and store the messages. Raises DatabaseUnreachable."""
        now = self._clock()
        async with self._database.snapshot() as session:
            await session.connection()
            read = await self._read(session, now)
        found = evaluate_all(read.rules, read.memories, read.conditions, now)
        is_current = read.position is not None and read.position.change_id == read.newest
        if is_current and not (found.changed or found.gone or read.moved or read.forgets_egresses):
            return
        async with self._database.session() as session:
            if not await messages.advance(session, read.position, read.newest):
                return  # another replica holds the lease by now, and has evaluated
            await messages.store_memories(session, found.changed, found.gone)
            if read.moved:
                await messages.store_egresses(session, read.moved)
            if read.forgets_egresses:
                await messages.forget_egresses(session)
            channels = await messages.channels_of(session, {rule.id for rule, _ in found.messages})
            for rule, content in found.messages:
                await messages.enqueue(session, rule.name, channels.get(rule.id, ()), content, now)
        self._counters.events.update(found.events)

    async def _read(self, session: AsyncSession, now: datetime) -> _Read:
        position = await messages.position(session)
        rules = [rule_of(row) for row in await messages.enabled_rules(session)]
        wanted = frozenset(event for rule in rules for event in rule.events)
        forgets = not wanted & MOMENTS and await messages.has_egresses(session)
        if not rules or position is None:
            return _Read(position, await message_facts.newest_change(session), (), {}, {}, (), forgets)
        stored = {key: from_json(memory) for key, memory in (await messages.memories(session)).items()}
        changes, newest = await message_facts.state_changes(session, position.change_id)
        onsets = facts.onsets_of(changes)
        moved = {row["id"]: row for row in await message_facts.new_egresses(session)} if wanted & MOMENTS else {}
        idle = await self._look_at_loads(session, now) if MessageEvent.EXIT_IDLE in wanted else None
        keys = {subject for _, subject in stored}
        exit_ids = {*facts.ids_of("exit", keys), *onsets, *moved, *(idle or ())}
        conditions = [
            *facts.of_exits(await message_facts.exits(session, exit_ids), onsets, idle, moved),
            *facts.of_proxies(await message_facts.proxies(session, facts.ids_of("proxy", keys))),
            *facts.of_fleets(await message_facts.fleets(session, facts.ids_of("fleet", keys))),
            *facts.of_certificates(await message_facts.certificates(session, facts.ids_of("certificate", keys))),
            facts.of_control_plane(await message_facts.control_plane(session, LEASE_ID, facts.SILENT_AFTER_S)),
        ]
        return _Read(position, newest, rules, stored, dict(conditions), [*moved.values()], forgets)

    async def _look_at_loads(self, session: AsyncSession, now: datetime) -> Collection[UUID] | None:
        last = self._idle_looked_at
        if last is not None and timedelta(0) <= now - last < IDLE_EVERY:
            return None
        self._idle_looked_at = now
        return self._idle.look(await message_facts.loads(session))


def evaluate_all(
    rules: Iterable[MessageRule],
    memories: Mapping[Key, SubjectMemory],
    conditions: Mapping[Subject, Conditions],
    now: datetime,
) -> Evaluated:
    """Evaluate rules for all subjects. What a rule tells at one time is one message. Pure.

    A memory is forgotten without a word when its subject does not exist any more, or its rule is not about it any more.
    """
    found, met = Evaluated(), set()
    for rule in rules:
        told = []
        for subject, of_subject in conditions.items():
            key = (rule.id, subject.key)
            before = memories.get(key, EMPTY)
            if not matches(rule, subject) or (before is EMPTY and not _concerns(rule, of_subject)):
                continue
            met.add(key)
            after, notice = evaluate(rule, before, of_subject, now)
            if after.is_empty:
                met.discard(key)
            elif after != before:
                found.changed[key] = to_json(after)
            if notice is not None:
                told.append(Told(subject, notice, of_subject))
        if told:
            found.messages.append((rule, write_message(told)))
            found.events += [event for each in told for event in each.notice.began]
    known = {rule.id for rule in rules}
    found.gone = [key for key in memories if key[0] in known and key not in met]
    return found


def _concerns(rule: MessageRule, conditions: Conditions) -> bool:
    """Tell whether a rule may have to remember something of a subject."""
    return any(
        event in rule.events and (each.onsets or (each.holds and event in FAULTS)) for event, each in conditions.items()
    )


def rule_of(row: MessageRuleRow) -> MessageRule:
    """Read a stored rule. Events of a newer version are left out."""
    known = {event.value for event in MessageEvent}
    return MessageRule(
        id=row.id,
        name=row.name,
        events=frozenset(MessageEvent(event) for event in row.events if event in known),
        fleet=row.fleet,
        pool=row.pool,
        exit=row.exit,
        threshold=row.threshold,
        within=timedelta(seconds=row.within_s),
        lasts=timedelta(seconds=row.for_s),
        cooldown=timedelta(seconds=row.cooldown_s),
        recovery=row.recovery,
    )
