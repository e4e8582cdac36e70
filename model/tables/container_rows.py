"""Containers of pools, their engine, and commands for them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Column, String, UniqueConstraint
from sqlmodel import Field, SQLModel

from model.tables.columns import timestamp


class ContainerRow(SQLModel, table=True):
    """A container of a pool, as the keeper saw it last. The row outlives the pool until the container is removed."""

    __tablename__ = "container"
    __table_args__ = (UniqueConstraint("pool_id", "slot"),)

    name: str = Field(primary_key=True)
    """Its name at the engine, which is also the name of its exit."""
    pool_id: UUID
    slot: int
    started_at: datetime = Field(sa_column=timestamp())
    leaving_since: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    """The start of its removal for good."""
    held: bool = False
    """An operator stopped it."""
    state: str = Field(default="missing", sa_column=Column("life", String, key="state", nullable=False))
    status: str = ""
    """The engine's own sentence."""


class ContainerPoolRow(SQLModel, table=True):
    """The status of a pool's containers."""

    __tablename__ = "container_pool"

    pool_id: UUID = Field(foreign_key="pool.id", primary_key=True, ondelete="CASCADE")
    wanted: int = 0
    failures: int = 0
    retry_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    error: str = ""
    """The last error, while it persists; empty: none."""
    error_since: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class ContainerEngineRow(SQLModel, table=True):
    """The container engine of the lease's holder, and its last error."""

    __tablename__ = "container_engine"

    id: int = Field(default=1, primary_key=True)
    address: str
    looked_at: datetime = Field(sa_column=timestamp())
    error: str = ""
    error_since: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


class ContainerCommandRow(SQLModel, table=True):
    """An operator's command for a container. The keeper with an engine executes it."""

    __tablename__ = "container_wish"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    container: str = Field(index=True)
    verb: str
    """`start`, `stop`, `restart` or `logs`."""
    lines: int = 0
    in_turn: bool = False
    """It waits until the other containers of its pool are up."""
    asked_at: datetime = Field(sa_column=timestamp())
    done_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    answer: str = ""
    error: str = ""
