"""Enrolment of proxies: the authority, certificates and join tokens."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Column, DateTime, String, text
from sqlmodel import Field, SQLModel

from model.sealed_columns import sealed_text
from model.tables.columns import timestamp


def _moment() -> Column[datetime | None]:
    return Column(DateTime(timezone=True), nullable=True)


class AuthorityRow(SQLModel, table=True):
    """The one certificate authority that all replicas share."""

    __tablename__ = "authority"

    id: int = Field(default=1, primary_key=True)
    certificate: str
    key: str = Field(sa_column=sealed_text("authority.key"))
    chain: str = Field(default="", sa_column_kwargs={"server_default": ""})
    root_key: str | None = Field(default=None, sa_column=sealed_text("authority.root_key", nullable=True))
    instance: str = Field(default="", sa_column_kwargs={"server_default": ""})


class TrustedAuthorityRow(SQLModel, table=True):
    """A root certificate by which proxies verify each other. It is no secret, and part of the World."""

    __tablename__ = "trusted_authority"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    certificate: str


class CertificateRow(SQLModel, table=True):
    """A certificate that the authority signed, by its SHA-256 thumbprint."""

    __tablename__ = "certificate"

    thumbprint: str = Field(primary_key=True)
    proxy_id: UUID = Field(foreign_key="proxy.id", index=True, ondelete="CASCADE")
    public_key: str
    issued_at: datetime = Field(sa_column=timestamp())
    expires_at: datetime = Field(sa_column=timestamp())
    signed_at: datetime | None = Field(default=None, sa_column=_moment())
    """The time of the signature of the renewal that it answers; None: it answers a registration."""
    revoked_at: datetime | None = Field(default=None, sa_column=_moment())
    """The time of the takeover that ended it."""
    issuer: str | None = None
    """The id of the issuer's key, in hexadecimal; None: release 0.1.0 signed it."""
    serial: str | None = None
    """Its serial number, in hexadecimal."""
    authority: str | None = None
    """The version of the authority that the proxy got with it."""


class RevokedCertificateRow(SQLModel, table=True):
    """A valid certificate of a proxy that was removed. A trigger writes it, so that no writer can forget to."""

    __tablename__ = "revoked_certificate"

    issuer: str = Field(primary_key=True)
    serial: str = Field(primary_key=True)
    at: datetime = Field(sa_column=timestamp())
    expires_at: datetime = Field(sa_column=timestamp())


class JoinTokenRow(SQLModel, table=True):
    """The right to enrol proxies of one role in one fleet; only the token's SHA-256 is stored."""

    __tablename__ = "join_token"
    __mapper_args__ = {"primary_key": ["id"]}

    digest: str = Field(primary_key=True)
    id: UUID | None = Field(default_factory=uuid4)
    """None for a token of release 0.1.0, which is valid no more."""
    name: str = Field(default="", sa_column=Column("token_name", String, key="name", nullable=False, server_default=""))
    fleet_id: UUID = Field(foreign_key="fleet.id", ondelete="CASCADE")
    role: str
    proxy_name: str | None = Field(default=None, sa_column=Column("name", String, key="proxy_name", nullable=True))
    """The only name that may enrol with this token. None: any name."""
    takes_over: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """It may give the name to another key, and thereby ends the certificates of the proxy that has it."""
    uses: int | None = None
    """The number of registrations that it is good for; None: any number."""
    used: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    expires_at: datetime = Field(sa_column=timestamp())
    created_at: datetime | None = Field(default=None, sa_column=_moment())
    created_by: UUID | None = None
    """The operator; None: the control plane, for a container."""
    last_used_at: datetime | None = Field(default=None, sa_column=_moment())
    last_used_by: str | None = Field(
        default=None, sa_column=Column("used_by", String, key="last_used_by", nullable=True)
    )
    """The name of the proxy that registered last."""
    revoked_at: datetime | None = Field(default=None, sa_column=_moment())
    refused_at: datetime | None = Field(default=None, sa_column=_moment())
    """The last refusal of the token that is in the audit."""
