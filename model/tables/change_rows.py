"""The revision, the change log, and the audit."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Identity
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from model.tables.columns import timestamp


class RevisionRow(SQLModel, table=True):
    """The single row whose lock puts the revisions in commit order (docs/architecture.md#notify-is-a-hint)."""

    __tablename__ = "revision"

    id: int = Field(default=1, primary_key=True)
    value: int = Field(sa_column=Column(BigInteger, nullable=False))


class ChangeRow(SQLModel, table=True):
    """A row of the change log: one thing that a revision changed. Every replica reads it, and the keeper prunes it."""

    __tablename__ = "change"

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    revision: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    kind: str
    key: str = Field(index=True)
    at: datetime = Field(sa_column=timestamp())
    traceparent: str | None = None
    """The W3C trace context of the write, so that one trace runs from the REST call to the last ACK."""
    action: str | None = None
    """`created`, `changed` or `deleted`; None for rollout state, which is no event."""
    fleet_id: UUID | None = None
    detail: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
    """Details of the event, such as names and the old and new values of changed fields."""


class AuditRow(SQLModel, table=True):
    """An entry of the audit. Append-only: each row holds its own hash and that of the row before it."""

    __tablename__ = "audit_event"

    sequence: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    at: datetime = Field(sa_column=timestamp())
    actor_id: UUID | None = None
    """The operator; None: an unauthenticated caller, or the control plane itself."""
    api_key_id: UUID | None = None
    action: str
    kind: str
    object_id: str | None = None
    fleet_id: UUID | None = Field(default=None, index=True)
    detail: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    previous: str
    hash: str


class AuditHeadRow(SQLModel, table=True):
    """The end of the audit's hash chain. Its row lock puts the entries in order."""

    __tablename__ = "audit_head"

    id: int = Field(default=1, primary_key=True)
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    hash: str
