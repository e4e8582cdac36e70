"""Proxies and exits: their declaration, states, orders and last heartbeats."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Identity, Index, String, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from model.sealed_columns import sealed_text
from model.tables.columns import timestamp


class ProxyRow(SQLModel, table=True):
    """An Envoy under control. The proxy of an exit has the exit's id."""

    __tablename__ = "proxy"
    __table_args__ = (UniqueConstraint("fleet_id", "role", "name"), Index(None, "name", "id"))

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    role: str
    locality: str | None = None
    """`region` or `region/zone`; None: unknown. An exit's proxy has the exit's locality."""
    created_at: datetime = Field(sa_column=timestamp())
    replaced_certificates: list[str] = Field(
        default_factory=list, sa_column=Column(JSONB, nullable=False, server_default="[]")
    )
    """Thumbprints of certificates that ended when another key took over the name."""


class RemovedProxyRow(SQLModel, table=True):
    """A proxy that was removed. A trigger writes it, so that no writer can forget to; kept while a certificate may be valid."""

    __tablename__ = "removed_proxy"

    id: UUID = Field(primary_key=True)
    at: datetime = Field(sa_column=timestamp())


class ExitRow(SQLModel, table=True):
    __tablename__ = "exit"
    __table_args__ = (
        UniqueConstraint("pool_id", "name"),
        Index(None, "name", "id"),
        Index(None, "state_since", "id"),
        Index(None, "created_at", "id"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pool_id: UUID = Field(foreign_key="pool.id", index=True)
    name: str
    address: str
    """The declared address: an IP literal or a host name."""
    endpoint: str | None = None
    """The IP literal that gateways dial: the address itself, or what its host name resolved to."""
    port: int
    bind_address: str
    egress_address: str | None = None
    locality: str | None = None
    weight: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    """Relative to the other exits of its pool."""
    standby: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """It serves only when no other exit of its pool does."""
    capacity: int | None = None
    """The number of requests that it should carry at once; None: no limit."""
    cost: float | None = None
    """The price of traffic, in any unit that all exits of the pool share."""
    monthly_cap_gb: float | None = None
    """Its traffic cap in a month (UTC), both directions together, in units of 10^9 bytes; None: no cap."""
    share: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    """The factor on `weight` that the keeper computes for pools with `weigh_by`."""
    capped: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """Its traffic cap drained it, not an operator."""
    parent_address: str | None = None
    """The HTTP proxy to which it sends all traffic, with `parent_port`; None: it dials targets itself."""
    parent_port: int | None = None
    parent_username: str | None = None
    parent_password: str | None = Field(default=None, sa_column=sealed_text("exit.parent_password", nullable=True))
    """Never shown by the API. Only the exit's own Envoy gets it, by SDS."""
    state: str
    state_reason: str
    state_since: datetime = Field(sa_column=timestamp())
    created_at: datetime = Field(sa_column=timestamp())


class ExitHistoryRow(SQLModel, table=True):
    """A change of an exit's state. A trigger writes it, so that no writer of states can forget to."""

    __tablename__ = "exit_history"
    __table_args__ = (Index(None, "exit_id", "at"),)

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    exit_id: UUID = Field(foreign_key="exit.id", ondelete="CASCADE")
    at: datetime = Field(sa_column=timestamp())
    state: str
    reason: str
    previous: str | None = None
    """The previous state; None for the first."""


class ExitOrderRow(SQLModel, table=True):
    """An order for the agent of an exit, and its outcome. Not configuration: no revision."""

    __tablename__ = "exit_order"
    __table_args__ = (Index(None, "exit_id", "asked_at"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    exit_id: UUID = Field(foreign_key="exit.id", ondelete="CASCADE")
    kind: str
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSONB(), nullable=False))
    asked_at: datetime = Field(sa_column=timestamp())
    expires_at: datetime = Field(sa_column=timestamp())
    done_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=True))
    outcome: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """The result from the agent; None while the order is pending, or when it failed."""
    error: str = Field(default="", sa_column=Column("trouble", String, key="error", nullable=False))
    """The reason of the failure."""


class HeartbeatRow(SQLModel, table=True):
    """The last heartbeat of a proxy. Written in batches, without a revision.

    See docs/architecture.md#heartbeats-are-not-configuration.
    """

    __tablename__ = "heartbeat"

    proxy_id: UUID = Field(primary_key=True)
    heard_at: datetime = Field(sa_column=timestamp())
    tunnel_up: bool
    envoy_up: bool
    stopping: bool = Field(sa_column=Column("leaving", Boolean, key="stopping", nullable=False))
    reason: str
    version: str
    observation: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """The observation of an exit's traffic; None: its agent has no observer."""
    open_requests: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    carried_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Traffic since the start of its Envoy, both directions together."""
    month_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Traffic in the month (UTC) of `heard_at`."""
    metrics_address: str | None = None
    """host:port at which Prometheus scrapes its Envoy; None: its agent reports none."""
    certificate: str | None = None
    """The thumbprint of the certificate with whose key it was signed; None: a replica of release 0.1.0 received it."""
    signed_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("'1970-01-01 00:00:00+00'"))
    )
    """The time of its signature, by the agent's clock. Only a newer one replaces it."""


class IngestWatermarkRow(SQLModel, table=True):
    """The time until which a replica of the API received and stored heartbeats without a break."""

    __tablename__ = "ear"

    replica: str = Field(primary_key=True)
    heard_until: datetime = Field(sa_column=timestamp())


class KeepaliveRow(SQLModel, table=True):
    """The last keepalive of a VPN Sentinel client, as received."""

    __tablename__ = "keepalive"

    client_id: str = Field(primary_key=True)
    at: datetime = Field(sa_column=timestamp())
    body: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
