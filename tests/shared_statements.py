"""Statements that SQLAlchemy compiled, shared by all engines of a process: otherwise each test compiles them for its own engine."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from sqlalchemy import Connection, Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.util import LRUCache


class SharedDialect(PGDialect_asyncpg):
    """The dialect of all engines, with what it knows about types and about the one server of the run.

    A compiled statement is found by its dialect object, so a shared cache alone would not do.
    """

    supports_statement_cache = True
    _compiled: ClassVar[LRUCache[Any, Any]] = LRUCache(5_000)
    _one: ClassVar[Self | None] = None
    _initialized = False

    def __new__(cls, **_options: Any) -> Self:
        if cls._one is None:
            cls._one = super().__new__(cls)
            PGDialect_asyncpg.__init__(cls._one, **_options)
        return cls._one

    def __init__(self, **_options: Any) -> None:
        """Do nothing: an engine gets the dialect that exists."""

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        engine._compiled_cache = cls._compiled

    def initialize(self, connection: Connection) -> None:
        """Ask the server for its version and settings once."""
        if not self._initialized:
            super().initialize(connection)
            self._initialized = True


def share_statements() -> None:
    """Let every engine that this process creates use the dialect above."""
    registry.register("postgresql.asyncpg", __name__, SharedDialect.__name__)


def separate_statements() -> None:
    """Give every engine that this process creates a dialect of its own again, and so a keyring of its own."""
    registry.register("postgresql.asyncpg", PGDialect_asyncpg.__module__, PGDialect_asyncpg.__name__)
