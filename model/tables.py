"""The tables of the declared state and of what is kept beside it. All queries are in `model.repositories`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, DateTime, Identity, LargeBinary, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
SQLModel.metadata.naming_convention = NAMES


def _timestamp(*, nullable: bool = False) -> Column[datetime]:
    return Column(DateTime(timezone=True), nullable=nullable)


class FleetRow(SQLModel, table=True):
    __tablename__ = "fleet"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str = Field(unique=True)
    created_at: datetime = Field(sa_column=_timestamp())


class ListenerRow(SQLModel, table=True):
    __tablename__ = "listener"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id", unique=True, ondelete="CASCADE")
    address: str
    port: int


class PoolRow(SQLModel, table=True):
    __tablename__ = "pool"
    __table_args__ = (UniqueConstraint("fleet_id", "name"), UniqueConstraint("fleet_id", "country"))

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    country: str
    created_at: datetime = Field(sa_column=_timestamp())


class ProxyRow(SQLModel, table=True):
    """An Envoy under control; that of a managed exit has the exit's id."""

    __tablename__ = "proxy"
    __table_args__ = (UniqueConstraint("fleet_id", "role", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    role: str
    locality: str | None = None
    """`region` or `region/zone`; None: unknown. That of an exit's Envoy is the exit's."""
    created_at: datetime = Field(sa_column=_timestamp())


class ExitRow(SQLModel, table=True):
    __tablename__ = "exit"
    __table_args__ = (UniqueConstraint("pool_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pool_id: UUID = Field(foreign_key="pool.id", index=True)
    name: str
    address: str
    """What was declared: an IP literal or a host name."""
    endpoint: str | None = None
    """The IP literal that gateways dial; the address itself, or what its name resolved to."""
    port: int
    bind_address: str
    egress_address: str | None = None
    locality: str | None = None
    state: str
    state_reason: str
    state_since: datetime = Field(sa_column=_timestamp())
    created_at: datetime = Field(sa_column=_timestamp())


class HeartbeatRow(SQLModel, table=True):
    """The last that was heard of a proxy. Not configuration: no revision, written in batches (decision 13)."""

    __tablename__ = "heartbeat"

    proxy_id: UUID = Field(primary_key=True)
    heard_at: datetime = Field(sa_column=_timestamp())
    tunnel_up: bool
    envoy_up: bool
    leaving: bool
    reason: str
    version: str


class EarRow(SQLModel, table=True):
    """Until when a replica of the API is known to have been able to hear heartbeats and to store them."""

    __tablename__ = "ear"

    replica: str = Field(primary_key=True)
    heard_until: datetime = Field(sa_column=_timestamp())


class CertificateRow(SQLModel, table=True):
    """A certificate that the authority signed, by its SHA-256 thumbprint."""

    __tablename__ = "certificate"

    thumbprint: str = Field(primary_key=True)
    proxy_id: UUID = Field(foreign_key="proxy.id", index=True, ondelete="CASCADE")
    public_key: str
    issued_at: datetime = Field(sa_column=_timestamp())
    expires_at: datetime = Field(sa_column=_timestamp())


class JoinTokenRow(SQLModel, table=True):
    """The right to enrol proxies of one role in one fleet; only the token's SHA-256 is kept."""

    __tablename__ = "join_token"

    digest: str = Field(primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id", ondelete="CASCADE")
    role: str
    expires_at: datetime = Field(sa_column=_timestamp())


class AuthorityRow(SQLModel, table=True):
    """The one certificate authority that all replicas share."""

    __tablename__ = "authority"

    id: int = Field(default=1, primary_key=True)
    certificate: str
    key: str


class RevisionRow(SQLModel, table=True):
    """The single row whose lock puts the revisions in commit order (decision 2)."""

    __tablename__ = "revision"

    id: int = Field(default=1, primary_key=True)
    value: int = Field(sa_column=Column(BigInteger, nullable=False))


class ChangeRow(SQLModel, table=True):
    """What a revision changed. Kept for a time, read by every replica, consumed by none."""

    __tablename__ = "change"

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    revision: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    kind: str
    key: str = Field(index=True)
    at: datetime = Field(sa_column=_timestamp())
    traceparent: str | None = None
    """The W3C trace context of the write, so that one trace runs from the REST call to the last ACK."""


class AcceptedRow(SQLModel, table=True):
    """The version of a resource that the proxies of a group acknowledged last, with its bytes."""

    __tablename__ = "accepted"

    group: str = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: str
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    at: datetime = Field(sa_column=_timestamp())


class RejectionRow(SQLModel, table=True):
    """A version that a proxy (None: the control plane's own check) refused, with Envoy's words."""

    __tablename__ = "rejection"

    group: str = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    proxy_id: UUID | None = None
    detail: str
    at: datetime = Field(sa_column=_timestamp())


class SyncRow(SQLModel, table=True):
    """Where a proxy stands for a type of resource. Written in batches, no revision; revisions are those of Worlds."""

    __tablename__ = "sync"

    proxy_id: UUID = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    replica: UUID | None = None
    """The replica that the proxy has its stream with; None when it has none."""
    wanted_revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The newest revision at which something else was meant for it."""
    wanted_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    sent_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    sent_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    accepted_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    accepted_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    rejected_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    rejected_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    detail: str = ""
    """Envoy's own words when it rejected last."""


class ReplicaRow(SQLModel, table=True):
    """A replica of the xDS server that lives, and up to which revision its streams were told of all changes."""

    __tablename__ = "replica"

    id: UUID = Field(primary_key=True)
    revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    seen_at: datetime = Field(sa_column=_timestamp())


class CanaryRow(SQLModel, table=True):
    """A proxy that tries the changes of its group before the others are given them."""

    __tablename__ = "canary"

    group: str = Field(primary_key=True)
    proxy_id: UUID = Field(primary_key=True)
    replica: UUID = Field(index=True)
    accepted: str | None = None
    """The change-set that it accepted last."""


class RolloutRow(SQLModel, table=True):
    """What of a group is not settled: its change-sets, who is given each, and why. For the API to show."""

    __tablename__ = "rollout"

    group: str = Field(primary_key=True)
    fleet_id: UUID = Field(index=True)
    change_sets: list[dict[str, Any]] = Field(sa_column=Column(JSONB, nullable=False))
    at: datetime = Field(sa_column=_timestamp())


class ApprovalRow(SQLModel, table=True):
    """An operator's word that a fleet may lose more than half of what it has; used up by the next such change-set."""

    __tablename__ = "approval"

    fleet_id: UUID = Field(foreign_key="fleet.id", primary_key=True, ondelete="CASCADE")
    at: datetime = Field(sa_column=_timestamp())


class QuestionRow(SQLModel, table=True):
    """Somebody wants to know what a proxy holds; answered by the replica that it has its stream with.

    Of the one `resource` that it names the answer has the content too.
    """

    __tablename__ = "question"

    id: UUID = Field(primary_key=True)
    proxy_id: UUID = Field(index=True)
    resource: str | None = None
    asked_at: datetime = Field(sa_column=_timestamp())
    answer: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
