"""Sealed values of all tables: which keys sealed them, and sealing them anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import Column, LargeBinary, String, Table, select, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from model.database import Database
from model.encryption import Keyring, from_text, id_in, to_text
from model.repositories.authorities import CURRENT
from model.sealed_columns import SealedBytes, SealedText

KeyCounts: TypeAlias = Counter[str | None]
"""Numbers of stored secrets by the id of the key that sealed them; None for those in clear."""
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class _SealedColumn:
    table: Table
    column: Column[Any]

    @property
    def purpose(self) -> str:
        purpose: str = self.column.type.purpose  # type: ignore[attr-defined]
        return purpose

    @property
    def stored(self) -> Any:
        """The value as it is in the database."""
        return type_coerce(self.column, String() if self._is_text else LargeBinary())

    @property
    def _is_text(self) -> bool:
        return isinstance(self.column.type, SealedText)

    def read(self, stored: Any) -> bytes:
        return from_text(stored) if self._is_text else stored

    def write(self, value: bytes) -> Any:
        return to_text(value) if self._is_text else value


def _columns() -> Iterator[_SealedColumn]:
    for table in SQLModel.metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, SealedText | SealedBytes):
                yield _SealedColumn(table, column)


(_AUTHORITY,) = (each for each in _columns() if each.purpose == "authority.key")


async def count_by_key(database: Database) -> KeyCounts:
    """Count the stored secrets by key."""
    counts: KeyCounts = Counter()
    async with database.snapshot() as session:
        for each in _columns():
            query = select(each.stored).where(each.column.is_not(None))
            async for (stored,) in await session.stream(query):
                counts[id_in(each.read(stored))] += 1
    return counts


async def seal_all(database: Database, keyring: Keyring) -> int:
    """Seal all stored secrets with the current key, and return their number.

    It may be interrupted and repeated: values change one batch after the other, and those of concurrent writers stay.
    Raises MissingEncryptionKey and SecretUnreadable for a value that the keyring does not open.
    """
    keyring.sealing = True
    return sum([await _seal_column(database, keyring, each) for each in _columns()])


async def _seal_column(database: Database, keyring: Keyring, column: _SealedColumn) -> int:
    keys = [*column.table.primary_key.columns]
    query = select(*keys, column.stored.label("stored")).where(column.column.is_not(None))
    async with database.session() as session:
        rows = (await session.execute(query)).all()
    outdated = [row for row in rows if not keyring.is_current(column.read(row.stored))]
    for start in range(0, len(outdated), _BATCH):
        async with database.session() as session:
            for row in outdated[start : start + _BATCH]:
                await _seal_value(session, keyring, column, [*row[: len(keys)]], row.stored)
    return len(outdated)


async def _seal_value(
    session: AsyncSession, keyring: Keyring, column: _SealedColumn, key: list[Any], stored: Any
) -> None:
    content = keyring.open(column.read(stored), column.purpose)
    sealed = column.write(keyring.seal(content, column.purpose))
    same_row = [each == value for each, value in zip(column.table.primary_key.columns, key, strict=True)]
    statement = update(column.table).where(*same_row, column.stored == stored)
    await session.execute(statement.values({column.column: type_coerce(sealed, column.stored.type)}))


async def are_sealed(database: Database) -> bool | None:
    """Return whether the database seals its secrets, which its first one tells; None while it has none."""
    stored = await _read_first(database)
    return None if stored is None else id_in(stored) is not None


async def adopt(database: Database, keyring: Keyring) -> bool:
    """See at start that the keyring opens the database's secrets. Return False if they are in clear, from an older version.

    Then new ones stay in clear too, because older control planes may still run, and could not read them, until `seal_all`.
    Raises MissingEncryptionKey and SecretUnreadable.
    """
    stored = await _read_first(database)
    keyring.sealing = stored is None or id_in(stored) is not None
    if stored is not None:
        keyring.open(stored, _AUTHORITY.purpose)
    return keyring.sealing


async def _read_first(database: Database) -> bytes | None:
    """Read the authority's key as it is stored; the first start of a control plane stores it before all other secrets."""
    async with database.snapshot() as session:
        stored = (
            await session.execute(select(_AUTHORITY.stored).where(_AUTHORITY.table.c.id == CURRENT))
        ).scalar_one_or_none()
    return None if stored is None else _AUTHORITY.read(stored)
