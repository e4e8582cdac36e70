"""Reading the audit: in batches, so that it may be long, and checking that nobody changed it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from model.audit_log import hash_of
from model.tables import AuditHeadRow, AuditRow

BATCH: Final = 2_000
MAX_FINDINGS: Final = 100
_NEAR: Final = 1_000
"""How far from its place an entry is looked for that is out of order."""


class ChainFault(StrEnum):
    TAMPERED = "tampered"
    """An entry is not what was written."""
    MISSING = "missing"
    """There are entries before it and after it, but not it."""
    OUT_OF_ORDER = "out_of_order"
    """It stands in another entry's place."""
    CUT_OFF = "cut_off"
    """The end of the chain is not the end that was noted."""
    REWRITTEN = "rewritten"
    """The chain holds, but is another one than that of the checkpoint."""


@dataclass(frozen=True, slots=True)
class ChainFinding:
    """What is wrong, from one sequence to another (the same, for one entry)."""

    fault: ChainFault
    first: int
    last: int
    message: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An entry as it was once, kept where who changes the database cannot."""

    sequence: int
    hash: str


@dataclass(slots=True)
class ChainVerdict:
    """What became of the chain. At most FINDINGS_MAX findings are listed; `end` is where it ends."""

    count: int = 0
    end: Checkpoint = field(default_factory=lambda: Checkpoint(0, ""))
    findings: list[ChainFinding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def find(self, fault: ChainFault, first: int, last: int, message: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(ChainFinding(fault, first, last, message))


async def verify(session: AsyncSession, checkpoint: Checkpoint | None = None) -> ChainVerdict:
    """Check the whole chain as it is at this moment, against its noted end and maybe a checkpoint. A new transaction."""
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    head = (await session.execute(select(AuditHeadRow))).scalar_one_or_none()
    verdict = ChainVerdict()
    kept = checkpoint is None or checkpoint.sequence == 0
    async for row in read(session):
        _check(verdict, row)
        if checkpoint is not None and row.sequence == checkpoint.sequence:
            kept = True
            if row.hash != checkpoint.hash:
                message = f"entry {row.sequence} is not the one of the checkpoint"
                verdict.find(ChainFault.REWRITTEN, row.sequence, row.sequence, message)
    _check_end(verdict, head)
    if checkpoint is not None and not kept and checkpoint.sequence > verdict.end.sequence:
        message = f"entry {checkpoint.sequence}, of the checkpoint, is after the end"
        verdict.find(ChainFault.CUT_OFF, verdict.end.sequence + 1, checkpoint.sequence, message)
    return verdict


async def read(
    session: AsyncSession, *which: ColumnElement[bool], after: int = 0, batch: int = BATCH
) -> AsyncIterator[AuditRow]:
    """Entries from the oldest on, a batch at a time."""
    while True:
        rows = await read_batch(session, *which, after=after, batch=batch)
        for row in rows:
            yield row
        if len(rows) < batch:
            return
        after = rows[-1].sequence
        session.expunge_all()


async def read_batch(
    session: AsyncSession, *which: ColumnElement[bool], after: int = 0, batch: int = BATCH
) -> Sequence[AuditRow]:
    """The oldest entries after one."""
    sequence = col(AuditRow.sequence)
    query = select(AuditRow).where(sequence > after, *which).order_by(sequence).limit(batch)
    return (await session.execute(query)).scalars().all()


def _check(verdict: ChainVerdict, row: AuditRow) -> None:
    before, place = verdict.end, row.sequence
    follows = row.previous == before.hash
    if place > before.sequence + 1:
        first, last = before.sequence + 1, place - 1
        which = f"entry {first} is" if first == last else f"entries {first} to {last} are"
        verdict.find(ChainFault.MISSING, first, last, f"{which} missing")
        follows = True  # nothing can be said of what is not there
    if hash_of(row) != row.hash:
        written = _place_of(row) if len(verdict.findings) < MAX_FINDINGS else None
        if written is None:
            verdict.find(ChainFault.TAMPERED, place, place, f"entry {place} is not what was written")
        else:
            verdict.find(ChainFault.OUT_OF_ORDER, place, place, f"entry {written} stands in the place of entry {place}")
    elif not follows and not _is_questioned(verdict, before.sequence):
        message = f"entry {place} does not follow entry {before.sequence}: one of them is not what was written"
        verdict.find(ChainFault.TAMPERED, before.sequence or place, place, message)
    verdict.count += 1
    verdict.end = Checkpoint(place, row.hash)


def _is_questioned(verdict: ChainVerdict, sequence: int) -> bool:
    """Whether something was found about an entry already; that the next one does not follow it is no news then."""
    return bool(verdict.findings) and verdict.findings[-1].last >= sequence


def _place_of(row: AuditRow) -> int | None:
    """Where an entry was written, if that is what was changed of it."""
    moved = AuditRow(**row.model_dump())
    for distance in range(1, _NEAR + 1):
        for place in (row.sequence - distance, row.sequence + distance):
            moved.sequence = place
            if hash_of(moved) == row.hash:
                return place
    return None


def _check_end(verdict: ChainVerdict, head: AuditHeadRow | None) -> None:
    end = verdict.end
    if head is None:
        verdict.find(ChainFault.CUT_OFF, end.sequence, end.sequence, "the noted end of the chain is missing")
    elif head.sequence > end.sequence:
        first, last = end.sequence + 1, head.sequence
        which = f"entry {first} is" if first == last else f"entries {first} to {last} are"
        verdict.find(ChainFault.CUT_OFF, first, last, f"{which} cut off at the end")
    elif head.sequence < end.sequence:
        message = f"there are entries after {head.sequence}, the noted end"
        verdict.find(ChainFault.TAMPERED, head.sequence + 1, end.sequence, message)
    elif head.hash != end.hash and not _is_questioned(verdict, end.sequence):
        verdict.find(ChainFault.TAMPERED, end.sequence, end.sequence, f"entry {end.sequence} is not the noted end")
