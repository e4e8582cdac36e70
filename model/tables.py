"""The tables: declared state, rollout state, heartbeats, operators, audit. All queries are in `model.repositories`."""

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
    """A certificate that listeners show to TLS clients. Proxies get it by SDS only."""

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
    """The country for clients of this listener that name no location."""
    pool_id: UUID | None = Field(default=None, foreign_key="pool.id", index=True)
    """The pool for clients of this listener that name no location."""
    certificate_id: UUID | None = Field(default=None, foreign_key="server_certificate.id", index=True)
    """None: the listener speaks no TLS to its clients."""
    countries_by_server_name: dict[str, str] = Field(default_factory=dict, sa_column=_object())
    """The country by TLS server name, for clients that dialled that name and name no location."""
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
    """Empty: the pool serves the whole country."""
    only_by_name: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """The pool is not chosen by country or city, only by its name or by a route."""
    balancing: dict[str, Any] = Field(default_factory=dict, sa_column=_object())
    """Fields that differ from the defaults of `model.entities.Balancing`."""
    resilience: dict[str, Any] = Field(default_factory=dict, sa_column=_object())
    """Fields that differ from the defaults of `model.entities.Resilience`."""
    containers: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """The containers of its exits, as `model.stored_containers` reads them; None: its exits run elsewhere."""
    created_at: datetime = Field(sa_column=_timestamp())


class RouteRow(SQLModel, table=True):
    """A route; `match` and `action` are JSON as the API takes them."""

    __tablename__ = "route"
    __table_args__ = (UniqueConstraint("fleet_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    position: int
    """Routes are tried in ascending order; those at one position by name."""
    enabled: bool = True
    match: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    action: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_column=_timestamp())


class RoutePoolRow(SQLModel, table=True):
    """A pool that a route leads to. Its foreign key keeps the pool from being removed."""

    __tablename__ = "route_pool"

    route_id: UUID = Field(foreign_key="route.id", primary_key=True, ondelete="CASCADE")
    pool_id: UUID = Field(foreign_key="pool.id", primary_key=True, index=True)


class PlanRow(SQLModel, table=True):
    """The limits of a plan's users; None: no limit."""

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
    """A client of the gateways."""

    __tablename__ = "user_account"
    __table_args__ = (
        UniqueConstraint("fleet_id", "name"),
        Index(None, "name", "id"),
        Index("ix_user_account_prefix", "name", postgresql_ops={"name": "text_pattern_ops"}),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    """Contains no `-`, which separates it from the client intent in a proxy user name."""
    group: str | None = None
    plan_id: UUID | None = Field(default=None, foreign_key="plan.id", index=True)
    created_at: datetime = Field(sa_column=_timestamp())


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
    created_at: datetime = Field(sa_column=_timestamp())


class RemovedProxyRow(SQLModel, table=True):
    """A proxy that was removed. A trigger writes it, so that no writer can forget to; kept while a certificate may be valid."""

    __tablename__ = "removed_proxy"

    id: UUID = Field(primary_key=True)
    at: datetime = Field(sa_column=_timestamp())


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
    parent_password: str | None = None
    """Never shown by the API. Only the exit's own Envoy gets it, by SDS."""
    state: str
    state_reason: str
    state_since: datetime = Field(sa_column=_timestamp())
    created_at: datetime = Field(sa_column=_timestamp())


class ExitHistoryRow(SQLModel, table=True):
    """A change of an exit's state. A trigger writes it, so that no writer of states can forget to."""

    __tablename__ = "exit_history"
    __table_args__ = (Index(None, "exit_id", "at"),)

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    exit_id: UUID = Field(foreign_key="exit.id", ondelete="CASCADE")
    at: datetime = Field(sa_column=_timestamp())
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
    asked_at: datetime = Field(sa_column=_timestamp())
    expires_at: datetime = Field(sa_column=_timestamp())
    done_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=True))
    outcome: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """The result from the agent; None while the order is pending, or when it failed."""
    trouble: str = ""
    """The reason of the failure."""


class HeartbeatRow(SQLModel, table=True):
    """The last heartbeat of a proxy. Written in batches, without a revision.

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
    """The observation of an exit's traffic; None: its agent has no observer."""
    open_requests: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    carried_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Traffic since the start of its Envoy, both directions together."""
    month_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))
    """Traffic in the month (UTC) of `heard_at`."""


class IngestWatermarkRow(SQLModel, table=True):
    """The time until which a replica of the API received and stored heartbeats without a break."""

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
    """The right to enrol proxies of one role in one fleet; only the token's SHA-256 is stored."""

    __tablename__ = "join_token"

    digest: str = Field(primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id", ondelete="CASCADE")
    role: str
    expires_at: datetime = Field(sa_column=_timestamp())
    name: str | None = None
    """The only name that may enrol with this token, and then only one key. None: any name, any number of times."""
    used_by: str | None = None
    """The SHA-256 of the key that enrolled with a token for one name."""


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
    """A row of the change log: one thing that a revision changed. Every replica reads it, and the keeper prunes it."""

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
    """Details of the event, such as names and the old and new values of changed fields."""


class AcceptedRow(SQLModel, table=True):
    """The version of a resource that was released to a group last, with its bytes."""

    __tablename__ = "accepted"

    group: str = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: str
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    at: datetime = Field(sa_column=_timestamp())


class RejectionRow(SQLModel, table=True):
    """A version that a proxy (None: the control plane's own validation) rejected, with Envoy's message."""

    __tablename__ = "rejection"

    group: str = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    proxy_id: UUID | None = None
    detail: str
    at: datetime = Field(sa_column=_timestamp())


class SyncRow(SQLModel, table=True):
    """The sync status of one proxy and one resource type. Written in batches, without a revision. Revisions are those of Worlds."""

    __tablename__ = "sync"

    proxy_id: UUID = Field(primary_key=True)
    type_url: str = Field(primary_key=True)
    replica: UUID | None = None
    """The replica with the proxy's stream; None when there is no stream."""
    wanted_revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The newest revision that changed the configuration of this proxy and type."""
    wanted_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    sent_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    sent_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    accepted_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    accepted_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    rejected_revision: int | None = Field(default=None, sa_column=Column(BigInteger))
    rejected_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    detail: str = ""
    """Envoy's message of the last rejection."""


class ReplicaRow(SQLModel, table=True):
    """A living replica of the xDS server, and the revision up to which it has published to its streams."""

    __tablename__ = "replica"

    id: UUID = Field(primary_key=True)
    revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    seen_at: datetime = Field(sa_column=_timestamp())


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
    at: datetime = Field(sa_column=_timestamp())


class ApprovalRow(SQLModel, table=True):
    """An operator's approval that a fleet may lose more than half of its pools or exits. The next such change-set uses it up."""

    __tablename__ = "approval"

    fleet_id: UUID = Field(foreign_key="fleet.id", primary_key=True, ondelete="CASCADE")
    at: datetime = Field(sa_column=_timestamp())


class ConfigRequestRow(SQLModel, table=True):
    """A request for the configuration that a proxy holds. The replica with the proxy's stream answers it.

    The answer contains the content of the one `resource` that the request names.
    """

    __tablename__ = "question"

    id: UUID = Field(primary_key=True)
    proxy_id: UUID = Field(index=True)
    resource: str | None = None
    asked_at: datetime = Field(sa_column=_timestamp())
    answer: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB))


class OperatorRow(SQLModel, table=True):
    """An operator. All other tables refer to operators by id, so that personal data is in this row only."""

    __tablename__ = "operator"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str = Field(unique=True)
    role: str
    fleet_ids: list[str] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    """The fleets that the operator may see and change; None: all."""
    password_hash: str | None = None
    totp_secret: str | None = None
    totp_step: int | None = Field(default=None, sa_column=Column(BigInteger))
    """The newest time step whose TOTP code was used: no code is valid twice."""
    oidc_subject: str | None = Field(default=None, unique=True)
    """`issuer#subject` of the OIDC account that may log in as this operator."""
    disabled: bool = False
    last_login_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    created_at: datetime = Field(sa_column=_timestamp())


class SessionRow(SQLModel, table=True):
    """A login. Its refresh token is replaced at each use, and only the digest of the newest is stored."""

    __tablename__ = "session"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    operator_id: UUID = Field(foreign_key="operator.id", index=True, ondelete="CASCADE")
    refresh_digest: str
    created_at: datetime = Field(sa_column=_timestamp())
    expires_at: datetime = Field(sa_column=_timestamp())


class ApiKeyRow(SQLModel, table=True):
    """An API key of an operator, stored as a digest. It never has more rights than the operator."""

    __tablename__ = "api_key"
    __table_args__ = (UniqueConstraint("operator_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    operator_id: UUID = Field(foreign_key="operator.id", ondelete="CASCADE")
    name: str
    digest: str = Field(unique=True)
    role: str
    fleet_ids: list[str] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    scopes: list[str] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    """`collection:read` or `collection:write`; None: everything that the role allows."""
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
    """An entry of the audit. Append-only: each row holds its own hash and that of the row before it."""

    __tablename__ = "audit_event"

    sequence: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    at: datetime = Field(sa_column=_timestamp())
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


class IdempotencyRow(SQLModel, table=True):
    """The stored reply to a POST with an Idempotency-Key, written in the transaction of that POST."""

    __tablename__ = "idempotency"

    actor_id: UUID = Field(primary_key=True)
    key: str = Field(primary_key=True)
    digest: str
    """The digest of the request."""
    status: int
    headers: dict[str, str] = Field(sa_column=Column(JSONB, nullable=False))
    body: str
    at: datetime = Field(sa_column=_timestamp())


class KeepaliveRow(SQLModel, table=True):
    """The last keepalive of a VPN Sentinel client, as received."""

    __tablename__ = "keepalive"

    client_id: str = Field(primary_key=True)
    at: datetime = Field(sa_column=_timestamp())
    body: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))


class ContainerRow(SQLModel, table=True):
    """A container of a pool, as the keeper saw it last. The row outlives the pool until the container is removed."""

    __tablename__ = "container"
    __table_args__ = (UniqueConstraint("pool_id", "slot"),)

    name: str = Field(primary_key=True)
    """Its name at the engine, which is also the name of its exit."""
    pool_id: UUID
    slot: int
    started_at: datetime = Field(sa_column=_timestamp())
    leaving_since: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    """The start of its removal for good."""
    held: bool = False
    """An operator stopped it."""
    life: str = "missing"
    status: str = ""
    """The engine's own sentence."""


class ContainerPoolRow(SQLModel, table=True):
    """The status of a pool's containers."""

    __tablename__ = "container_pool"

    pool_id: UUID = Field(foreign_key="pool.id", primary_key=True, ondelete="CASCADE")
    wanted: int = 0
    failures: int = 0
    retry_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    error: str = ""
    """The last error, while it persists; empty: none."""
    error_since: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))


class ContainerEngineRow(SQLModel, table=True):
    """The container engine of the lease's holder, and its last error."""

    __tablename__ = "container_engine"

    id: int = Field(default=1, primary_key=True)
    address: str
    looked_at: datetime = Field(sa_column=_timestamp())
    error: str = ""
    error_since: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))


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
    asked_at: datetime = Field(sa_column=_timestamp())
    done_at: datetime | None = Field(default=None, sa_column=_timestamp(nullable=True))
    answer: str = ""
    error: str = ""
