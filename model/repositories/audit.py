"""Reading of the audit in batches, and verification of its hash chain."""

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
"""The distance in entries within which the original place of a moved entry is searched."""


class ChainFault(StrEnum):
    TAMPERED = "tampered"
    """An entry was changed after it was written."""
    MISSING = "missing"
    """An entry between two others is gone."""
    OUT_OF_ORDER = "out_of_order"
    """An entry has the sequence number of another one."""
    CUT_OFF = "cut_off"
    """The chain ends before its recorded end."""
    REWRITTEN = "rewritten"
    """The chain is consistent, but does not contain the checkpoint."""


@dataclass(frozen=True, slots=True)
class ChainFinding:
    """A fault of the entries from sequence number `first` to `last`."""

    fault: ChainFault
    first: int
    last: int
    message: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The sequence number and hash of an entry, stored outside the database."""

    sequence: int
    hash: str


@dataclass(slots=True)
class ChainVerdict:
    """The result of the verification. It lists at most MAX_FINDINGS findings; `end` is the last entry."""

    count: int = 0
    end: Checkpoint = field(default_factory=lambda: Checkpoint(0, ""))
    findings: list[ChainFinding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def add(self, fault: ChainFault, first: int, last: int, message: str) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(ChainFinding(fault, first, last, message))


async def verify(session: AsyncSession, checkpoint: Checkpoint | None = None) -> ChainVerdict:
    """Verify the whole chain against its recorded end, and optionally a checkpoint. The session must be unused."""
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    head = (await session.execute(select(AuditHeadRow))).scalar_one_or_none()
    verdict = ChainVerdict()
    found = checkpoint is None or checkpoint.sequence == 0
    async for row in read(session):
        _check(verdict, row)
        if checkpoint is not None and row.sequence == checkpoint.sequence:
            found = True
            if row.hash != checkpoint.hash:
                message = f"entry {row.sequence} is not the one of the checkpoint"
                verdict.add(ChainFault.REWRITTEN, row.sequence, row.sequence, message)
    _check_end(verdict, head)
    if checkpoint is not None and not found and checkpoint.sequence > verdict.end.sequence:
        message = f"entry {checkpoint.sequence}, of the checkpoint, is after the end"
        verdict.add(ChainFault.CUT_OFF, verdict.end.sequence + 1, checkpoint.sequence, message)
    return verdict


async def read(
    session: AsyncSession, *which: ColumnElement[bool], after: int = 0, batch: int = BATCH
) -> AsyncIterator[AuditRow]:
    """Yield entries from the oldest to the newest, read in batches."""
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
    """Return the oldest entries after a sequence number."""
    sequence = col(AuditRow.sequence)
    query = select(AuditRow).where(sequence > after, *which).order_by(sequence).limit(batch)
    return (await session.execute(query)).scalars().all()


def _check(verdict: ChainVerdict, row: AuditRow) -> None:
    before, place = verdict.end, row.sequence
    follows = row.previous == before.hash
    if place > before.sequence + 1:
        first, last = before.sequence + 1, place - 1
        which = f"entry {first} is" if first == last else f"entries {first} to {last} are"
        verdict.add(ChainFault.MISSING, first, last, f"{which} missing")
        follows = True  # the hash of a missing entry is unknown
    if hash_of(row) != row.hash:
        written = _original_sequence(row) if len(verdict.findings) < MAX_FINDINGS else None
        if written is None:
            verdict.add(ChainFault.TAMPERED, place, place, f"entry {place} is not what was written")
        else:
            verdict.add(ChainFault.OUT_OF_ORDER, place, place, f"entry {written} stands in the place of entry {place}")
    elif not follows and not _has_finding(verdict, before.sequence):
        message = f"entry {place} does not follow entry {before.sequence}: one of them is not what was written"
        verdict.add(ChainFault.TAMPERED, before.sequence or place, place, message)
    verdict.count += 1
    verdict.end = Checkpoint(place, row.hash)


def _has_finding(verdict: ChainVerdict, sequence: int) -> bool:
    """Tell whether an entry has a finding already. Then a broken link to the next entry is no further finding."""
    return bool(verdict.findings) and verdict.findings[-1].last >= sequence


def _original_sequence(row: AuditRow) -> int | None:
    """Return the sequence number with which the entry's hash is right, if it was moved; None otherwise."""
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
        verdict.add(ChainFault.CUT_OFF, end.sequence, end.sequence, "the noted end of the chain is missing")
    elif head.sequence > end.sequence:
        first, last = end.sequence + 1, head.sequence
        which = f"entry {first} is" if first == last else f"entries {first} to {last} are"
        verdict.add(ChainFault.CUT_OFF, first, last, f"{which} cut off at the end")
    elif head.sequence < end.sequence:
        message = f"there are entries after {head.sequence}, the noted end"
        verdict.add(ChainFault.TAMPERED, head.sequence + 1, end.sequence, message)
    elif head.hash != end.hash and not _has_finding(verdict, end.sequence):
        verdict.add(ChainFault.TAMPERED, end.sequence, end.sequence, f"entry {end.sequence} is not the noted end")
