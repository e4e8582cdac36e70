"""The tables of the declared state and of what is kept beside it. All queries are in `model.repositories`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from model.entities import FIRST_LISTENER

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


def _object() -> Column[dict[str, Any]]:
    return Column(JSONB, nullable=False, server_default=text("'{}'::jsonb"))


class FleetRow(SQLModel, table=True):
    __tablename__ = "fleet"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str = Field(unique=True)
    created_at: datetime = Field(sa_column=_timestamp())


class ServerCertificateRow(SQLModel, table=True):
    """What listeners show to clients that speak TLS to them. Proxies are given it by SDS alone."""

    __tablename__ = "server_certificate"
    __table_args__ = (UniqueConstraint("fleet_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    chain: str
    key: str
    server_names: list[str] = Field(sa_column=Column(JSONB, nullable=False))
    expires_at: datetime = Field(sa_column=_timestamp())
    created_at: datetime = Field(sa_column=_timestamp())


class ListenerRow(SQLModel, table=True):
    __tablename__ = "listener"
    __table_args__ = (UniqueConstraint("fleet_id", "name"), UniqueConstraint("fleet_id", "address", "port"))

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id", ondelete="CASCADE")
    name: str = Field(default=FIRST_LISTENER, sa_column_kwargs={"server_default": FIRST_LISTENER})
    address: str
    port: int
    country: str | None = None
    """What a client of this listener wishes that says nothing itself."""
    pool_id: UUID | None = Field(default=None, foreign_key="pool.id", index=True)
    """Likewise."""
    certificate_id: UUID | None = Field(default=None, foreign_key="server_certificate.id", index=True)
    """None: it speaks no TLS to its clients."""
    countries_by_server_name: dict[str, str] = Field(default_factory=dict, sa_column=_object())
    """What a client wishes that dialled it under one of these TLS server names, and says nothing itself."""
    created_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))


class PoolRow(SQLModel, table=True):
    __tablename__ = "pool"
    __table_args__ = (
        UniqueConstraint("fleet_id", "name"),
        Index(
            "uq_pool_fleet_id_country_city",
            "fleet_id",
            "country",
            "city",
            unique=True,
            postgresql_where=text("NOT only_by_name"),
        ),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    country: str
    city: str = Field(default="", sa_column_kwargs={"server_default": ""})
    """Empty: it serves the country as a whole."""
    only_by_name: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """Whether it is not what a client gets that wishes for the country or the city."""
    balancing: dict[str, Any] = Field(default_factory=dict, sa_column=_object())
    """How requests are shared among its exits; what is not said is as model.world has it."""
    resilience: dict[str, Any] = Field(default_factory=dict, sa_column=_object())
    """What of its exits' failures it bears; likewise."""
    containers: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """What its exits run in, as model.containers has it; None: what runs elsewhere."""
    created_at: datetime = Field(sa_column=_timestamp())


class RouteRow(SQLModel, table=True):
    """Which wish goes where; `match` and `action` as the API takes them."""

    __tablename__ = "route"
    __table_args__ = (UniqueConstraint("fleet_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    position: int
    """Routes are tried from the lowest on; those at one position by name."""
    enabled: bool = True
    match: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    action: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_column=_timestamp())


class RoutePoolRow(SQLModel, table=True):
    """A pool that a route leads to, so that it cannot be removed meanwhile."""

    __tablename__ = "route_pool"

    route_id: UUID = Field(foreign_key="route.id", primary_key=True, ondelete="CASCADE")
    pool_id: UUID = Field(foreign_key="pool.id", primary_key=True, index=True)


class PlanRow(SQLModel, table=True):
    """What users of it may use; None: without a limit."""

    __tablename__ = "plan"
    __table_args__ = (UniqueConstraint("fleet_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    bandwidth_bps: int | None = Field(default=None, sa_column=Column(BigInteger))
    requests_per_minute: int | None = None
    tunnels: int | None = None
    monthly_bytes: int | None = Field(default=None, sa_column=Column(BigInteger))
    created_at: datetime = Field(sa_column=_timestamp())


class UserRow(SQLModel, table=True):
    """Somebody who uses gateways."""

    __tablename__ = "user_account"
    __table_args__ = (
        UniqueConstraint("fleet_id", "name"),
        Index(None, "name", "id"),
        Index("ix_user_account_prefix", "name", postgresql_ops={"name": "text_pattern_ops"}),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    """Without `-`, which separates the wishes that follow it in a client's user name."""
    group: str | None = None
    plan_id: UUID | None = Field(default=None, foreign_key="plan.id", index=True)
    created_at: datetime = Field(sa_column=_timestamp())


class ProxyRow(SQLModel, table=True):
    """An Envoy under control; that of a managed exit has the exit's id."""

    __tablename__ = "proxy"
    __table_args__ = (UniqueConstraint("fleet_id", "role", "name"), Index(None, "name", "id"))

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    role: str
    locality: str | None = None
    """`region` or `region/zone`; None: unknown. That of an exit's Envoy is the exit's."""
    created_at: datetime = Field(sa_column=_timestamp())


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
    """What was declared: an IP literal or a host name."""
    endpoint: str | None = None
    """The IP literal that gateways dial; the address itself, or what its name resolved to."""
    port: int
    bind_address: str
    egress_address: str | None = None
    locality: str | None = None
    weight: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    """Its share of requests, beside those of the other exits of its pool."""
    standby: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """Whether it serves only when no other exit of its pool does."""
    capacity: int | None = None
    """How many requests it should carry at once; None: as many as come."""
    cost: float | None = None
    """What traffic through it costs, in whatever unit the pool's exits are compared by."""
    monthly_cap_gb: float | None = None
    """How much it carries in a month (UTC), in both directions together: 10^9 bytes; None: as much as comes."""
    share: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    """What the keeper multiplies its weight by, where its pool weighs."""
    capped: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """Whether its cap, and not an operator, took it out."""
    parent_address: str | None = None
    """Of the HTTP proxy that it sends all traffic on to, with `parent_port`; None: it dials targets itself."""
    parent_port: int | None = None
    parent_username: str | None = None
    parent_password: str | None = None
    """Neither shown nor told; the exit's own Envoy is given it by SDS alone."""
    state: str
    state_reason: str
    state_since: datetime = Field(sa_column=_timestamp())
    created_at: datetime = Field(sa_column=_timestamp())


class ExitHistoryRow(SQLModel, table=True):
    """The states that an exit was in. Written by a trigger, so that no writer of states can forget it."""

    __tablename__ = "exit_history"
    __table_args__ = (Index(None, "exit_id", "at"),)

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    exit_id: UUID = Field(foreign_key="exit.id", ondelete="CASCADE")
    at: datetime = Field(sa_column=_timestamp())
    state: str
    reason: str
    previous: str | None = None
    """The state before; None for the first."""


class ExitOrderRow(SQLModel, table=True):
    """What an operator wants the agent of an exit to do, and what came of it. Not configuration: no revision."""

    __tablename__ = "exit_order"
    __table_args__ = (Index(None, "exit_id", "asked_at"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    exit_id: UUID = Field(foreign_key="exit.id", ondelete="CASCADE")
    kind: str
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSONB(), nullable=False))
    asked_at: datetime = Field(sa_column=_timestamp())
    expires_at: datetime = Field(sa_column=_timestamp())
    done_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=True))
    outcome: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """What the agent found; None while it is under way, or failed."""
    trouble: str = ""
    """Why it failed."""


class HeartbeatRow(SQLModel, table=True):
    """The last that was heard of a proxy. Written in batches, without a revision.

    See docs/architecture.md#heartbeats-are-not-configuration.
    """

    __tablename__ = "heartbeat"

    proxy_id: UUID = Field(primary_key=True)
    heard_at: datetime = Field(sa_column=_timestamp())
    tunnel_up: bool
    envoy_up: bool
    leaving: bool
    reason: str
    version: str
    observation: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """Where an exit's traffic was seen to come out; None: nobody looks."""
    open_requests: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    carried_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """What its Envoy has carried since it was started, in both directions."""
    month_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """What it has carried in the month (UTC) of `heard_at`."""


class IngestWatermarkRow(SQLModel, table=True):
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
    name: str | None = None
    """The only name that a proxy may enrol under with it; it is then for one key alone. None: as often as needed."""
    used_by: str | None = None
    """The SHA-256 of the key that enrolled with it, if it is for one alone."""


class AuthorityRow(SQLModel, table=True):
    """The one certificate authority that all replicas share."""

    __tablename__ = "authority"

    id: int = Field(default=1, primary_key=True)
    certificate: str
    key: str


class RevisionRow(SQLModel, table=True):
    """The single row whose lock puts the revisions in commit order (docs/architecture.md#notify-is-a-hint)."""

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
    action: str | None = None
    """`created`, `changed` or `deleted`; None for rollout state, which is no event."""
    fleet_id: UUID | None = None
    detail: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))
    """What an event says beyond what it is about: names, and the old and new state of an exit."""


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


class ConfigRequestRow(SQLModel, table=True):
    """Somebody wants to know what a proxy holds; answered by the replica that it has its stream with.

    Of the one `resource` that it names the answer has the content too.
    """

    __tablename__ = "question"

    id: UUID = Field(primary_key=True)
    proxy_id: UUID = Field(index=True)
    resource: str | None = None
    asked_at: datetime = Field(sa_column=_timestamp())
    answer: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))


class OperatorRow(SQLModel, table=True):
    """Somebody who administers. All else refers to operators by id, so that a person's data is in this row alone."""

    __tablename__ = "operator"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str = Field(unique=True)
    role: str
    fleet_ids: list[str] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    """The fleets that the operator is for; None: all."""
    password_hash: str | None = None
    totp_secret: str | None = None
    totp_step: int | None = Field(default=None, sa_column=Column(BigInteger))
    """The newest time step of which a code was used: none is good twice."""
    oidc_subject: str | None = Field(default=None, unique=True)
    """`issuer#subject` of the account that may log in for this operator."""
    disabled: bool = False
    last_login_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    created_at: datetime = Field(sa_column=_timestamp())


class SessionRow(SQLModel, table=True):
    """A login; its refresh token is replaced at each use, and only the digest of the newest is kept."""

    __tablename__ = "session"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    operator_id: UUID = Field(foreign_key="operator.id", index=True, ondelete="CASCADE")
    refresh_digest: str
    created_at: datetime = Field(sa_column=_timestamp())
    expires_at: datetime = Field(sa_column=_timestamp())


class ApiKeyRow(SQLModel, table=True):
    """The right of a program to act for an operator, never with more rights than the operator has; kept as a digest."""

    __tablename__ = "api_key"
    __table_args__ = (UniqueConstraint("operator_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    operator_id: UUID = Field(foreign_key="operator.id", ondelete="CASCADE")
    name: str
    digest: str = Field(unique=True)
    role: str
    fleet_ids: list[str] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    scopes: list[str] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    """`collection:read` or `collection:write`; None: all that the role may."""
    expires_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    last_used_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    created_at: datetime = Field(sa_column=_timestamp())


class ThrottleRow(SQLModel, table=True):
    """Failed logins for a name or from an address, by the digest of either."""

    __tablename__ = "throttle"

    key: str = Field(primary_key=True)
    failures: int
    blocked_until: datetime = Field(sa_column=_timestamp())
    at: datetime = Field(sa_column=_timestamp())


class SigningKeyRow(SQLModel, table=True):
    """The one key with which all replicas sign the tokens of operators."""

    __tablename__ = "signing_key"

    id: int = Field(default=1, primary_key=True)
    secret: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class AuditRow(SQLModel, table=True):
    """Who did what. Append-only: each row holds the hash of the one before it, and its own."""

    __tablename__ = "audit_event"

    sequence: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    at: datetime = Field(sa_column=_timestamp())
    actor_id: UUID | None = None
    """The operator; None: nobody that is known, or the control plane itself."""
    api_key_id: UUID | None = None
    action: str
    kind: str
    object_id: str | None = None
    fleet_id: UUID | None = Field(default=None, index=True)
    detail: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    previous: str
    hash: str


class AuditHeadRow(SQLModel, table=True):
    """The end of the audit's chain; its lock puts the entries in order."""

    __tablename__ = "audit_head"

    id: int = Field(default=1, primary_key=True)
    sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    hash: str


class IdempotencyRow(SQLModel, table=True):
    """What was answered to a POST with an Idempotency-Key, written in the same transaction as what it did."""

    __tablename__ = "idempotency"

    actor_id: UUID = Field(primary_key=True)
    key: str = Field(primary_key=True)
    digest: str
    """Of the request."""
    status: int
    headers: dict[str, str] = Field(sa_column=Column(JSONB, nullable=False))
    body: str
    at: datetime = Field(sa_column=_timestamp())


class KeepaliveRow(SQLModel, table=True):
    """The last keepalive of a VPN Sentinel client, as it came."""

    __tablename__ = "keepalive"

    client_id: str = Field(primary_key=True)
    at: datetime = Field(sa_column=_timestamp())
    body: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))


class ContainerRow(SQLModel, table=True):
    """A container that the keeper looks after, as it saw it last. It outlives its pool until it is removed."""

    __tablename__ = "container"
    __table_args__ = (UniqueConstraint("pool_id", "slot"),)

    name: str = Field(primary_key=True)
    """At the engine, and that of the exit in it."""
    pool_id: UUID
    slot: int
    started_at: datetime = Field(sa_column=_timestamp())
    leaving_since: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    """Since when it is drained to go for good."""
    held: bool = False
    """Whether an operator stopped it."""
    life: str = "missing"
    status: str = ""
    """The engine's words."""


class ContainerPoolRow(SQLModel, table=True):
    """How it stands with the containers of a pool."""

    __tablename__ = "container_pool"

    pool_id: UUID = Field(foreign_key="pool.id", primary_key=True, ondelete="CASCADE")
    wanted: int = 0
    failures: int = 0
    retry_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    error: str = ""
    """What went wrong last and still does; empty: nothing."""
    error_since: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))


class ContainerEngineRow(SQLModel, table=True):
    """The engine of the replica that looks after containers, and how it stands with it."""

    __tablename__ = "container_engine"

    id: int = Field(default=1, primary_key=True)
    address: str
    looked_at: datetime = Field(sa_column=_timestamp())
    error: str = ""
    error_since: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))


class ContainerCommandRow(SQLModel, table=True):
    """What somebody wishes of a container: carried out by the keeper, which is the only one that has an engine."""

    __tablename__ = "container_wish"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    container: str = Field(index=True)
    verb: str
    """`start`, `stop`, `restart` or `logs`."""
    lines: int = 0
    in_turn: bool = False
    """Whether it waits until the others of its pool are up."""
    asked_at: datetime = Field(sa_column=_timestamp())
    done_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    answer: str = ""
    error: str = ""
