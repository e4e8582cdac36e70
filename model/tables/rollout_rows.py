"""Rollout state: what groups accepted or rejected, canaries, approvals, and the sync status of proxies."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from model.sealed_columns import sealed_bytes
from model.tables.columns import timestamp


class AcceptedRow(SQLModel, table=True):
    """The version of a resource that was released to a group last, with its bytes."""

    __tablename__ = "accepted"

    group: str = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: str
    body: bytes = Field(sa_column=sealed_bytes("accepted.body"))
    at: datetime = Field(sa_column=timestamp())


class RejectionRow(SQLModel, table=True):
    """A version that a proxy (`model.entities.VALIDATOR`: the control plane's own validation) rejected, with Envoy's message."""

    __tablename__ = "proxy_rejection"

    group: str = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    proxy_id: UUID = Field(primary_key=True)
    detail: str
    at: datetime = Field(sa_column=timestamp())


class FormerRejectionRow(SQLModel, table=True):
    """The first rejection of a version, as replicas of release 0.1.0 store it. Kept for them until release 0.3.0, never read."""

    __tablename__ = "rejection"

    group: str = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    proxy_id: UUID | None = None
    detail: str
    at: datetime = Field(sa_column=timestamp())


class SyncRow(SQLModel, table=True):
    """The sync status of one proxy and one resource type. Written in batches, without a revision. Revisions are those of Worlds."""

    __tablename__ = "sync"

    proxy_id: UUID = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    replica: UUID | None = None
    """The replica with the proxy's stream; None when there is no stream."""
    wanted_revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The newest revision that changed the configuration of this proxy and type."""
    wanted_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    sent_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    sent_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    accepted_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    accepted_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    rejected_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    rejected_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    detail: str = ""
    """Envoy's message of the last rejection."""


class ReplicaRow(SQLModel, table=True):
    """A living replica of the xDS server, and the revision up to which it has published to its streams."""

    __tablename__ = "replica"

    id: UUID = Field(primary_key=True)
    revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    seen_at: datetime = Field(sa_column=timestamp())
    metrics_address: str | None = None
    """host:port at which Prometheus scrapes it; None: it serves no metrics, or nobody said where."""


class CanaryRow(SQLModel, table=True):
    """A proxy that gets the changes of its group before the others."""

    __tablename__ = "canary"

    group: str = Field(primary_key=True)
    proxy_id: UUID = Field(primary_key=True)
    replica: UUID = Field(index=True)
    accepted: str | None = None
    """The change-set that it accepted last."""


class RolloutRow(SQLModel, table=True):
    """The open rollouts of a group, for the API: its change-sets, who gets each of them, and why."""

    __tablename__ = "rollout"

    group: str = Field(primary_key=True)
    fleet_id: UUID = Field(index=True)
    change_sets: list[dict[str, Any]] = Field(sa_column=Column(JSONB, nullable=False))
    at: datetime = Field(sa_column=timestamp())


class ApprovalRow(SQLModel, table=True):
    """An operator's approval that a fleet may lose more than half of its pools or exits. The next such change-set uses it up."""

    __tablename__ = "approval"

    fleet_id: UUID = Field(foreign_key="fleet.id", primary_key=True, ondelete="CASCADE")
    at: datetime = Field(sa_column=timestamp())


class RolloutOverrideRow(SQLModel, table=True):
    """An operator's order to release one change-set of a group to all proxies. The release uses it up."""

    __tablename__ = "rollout_override"
    __table_args__ = (UniqueConstraint("group", "change_set"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id", ondelete="CASCADE")
    group: str
    change_set: str
    at: datetime = Field(sa_column=timestamp())


class ConfigRequestRow(SQLModel, table=True):
    """A request for the configuration that a proxy holds. The replica with the proxy's stream answers it.

    The answer contains the content of the one `resource` that the request names.
    """

    __tablename__ = "question"

    id: UUID = Field(primary_key=True)
    proxy_id: UUID = Field(index=True)
    resource: str | None = None
    asked_at: datetime = Field(sa_column=timestamp())
    answer: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
