"""Declared state of fleets: listeners with their certificates, pools, routes, plans and users."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, Index, UniqueConstraint, text, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from model.entities import FIRST_LISTENER
from model.sealed_columns import sealed_text
from model.tables.columns import json_list, json_object, timestamp


class FleetRow(SQLModel, table=True):
    __tablename__ = "fleet"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str = Field(unique=True)
    tracing: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """The fields of `model.entities.Tracing`; None: its Envoys make no spans."""
    created_at: datetime = Field(sa_column=timestamp())


class ServerCertificateRow(SQLModel, table=True):
    """A certificate that listeners show to TLS clients. Proxies get it by SDS only."""

    __tablename__ = "server_certificate"
    __table_args__ = (UniqueConstraint("fleet_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id")
    name: str
    chain: str
    key: str = Field(sa_column=sealed_text("server_certificate.key"))
    server_names: list[str] = Field(sa_column=Column(JSONB, nullable=False))
    issued_for: list[str] = Field(default_factory=list, sa_column=json_list())
    """The names and addresses for which the fleet's authority issues it. Empty: it is uploaded, or read from `folder`."""
    folder: str | None = None
    """The name of the folder that an ACME client writes to."""
    folder_error: str = Field(default="", sa_column_kwargs={"server_default": ""})
    """The reason why the present files of the folder are not used; empty: they are."""
    expires_soon: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    valid_from: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    """None: stored by release 0.1.0."""
    expires_at: datetime = Field(sa_column=timestamp())
    created_at: datetime = Field(sa_column=timestamp())


class FleetAuthorityRow(SQLModel, table=True):
    """The authority that issues the certificates of a fleet's listeners. Clients trust it, and no proxy does."""

    __tablename__ = "fleet_authority"

    fleet_id: UUID = Field(foreign_key="fleet.id", primary_key=True, ondelete="CASCADE")
    certificate: str
    key: str = Field(sa_column=sealed_text("fleet_authority.key"))


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
    """The certificate for clients whose server name no other has. None: the listener speaks no TLS to its clients."""
    additional_certificates: list[str] = Field(default_factory=list, sa_column=json_list())
    """Ids of certificates that clients get by their server name."""
    minimum_tls_version: str = Field(default="1.2", sa_column_kwargs={"server_default": "1.2"})
    countries_by_server_name: dict[str, str] = Field(default_factory=dict, sa_column=json_object())
    """The country by TLS server name, for clients that dialled that name and name no location."""
    authentication: list[str] = Field(default_factory=list, sa_column=json_list())
    """The ways in which clients may authenticate; empty: all of them are served."""
    created_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))


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
    allow_unverified: bool = Field(default=True, sa_column_kwargs={"server_default": text("true")})
    """Exits are offered whose agents observe nothing. The API declares pools without it; older versions declare them with it."""
    balancing: dict[str, Any] = Field(default_factory=dict, sa_column=json_object())
    """Fields that differ from the defaults of `model.entities.Balancing`."""
    resilience: dict[str, Any] = Field(default_factory=dict, sa_column=json_object())
    """Fields that differ from the defaults of `model.entities.Resilience`."""
    containers: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True), nullable=True))
    """The containers of its exits, as `model.stored_containers` reads them; None: its exits run elsewhere."""
    created_at: datetime = Field(sa_column=timestamp())


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
    created_at: datetime = Field(sa_column=timestamp())


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
    created_at: datetime = Field(sa_column=timestamp())


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
    secrets: list[dict[str, str]] = Field(default_factory=list, sa_column=json_list())
    """Objects with `slot`, `digest` (`UserSecret`) and `created_at`, the oldest first."""
    enabled: bool = Field(default=True, sa_column_kwargs={"server_default": true()})
    expires_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    created_at: datetime = Field(sa_column=timestamp())
