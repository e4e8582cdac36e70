"""Enrolment of proxies: the authority, certificates and join tokens."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlmodel import Field, SQLModel

from model.sealed_columns import sealed_text
from model.tables.columns import timestamp


class AuthorityRow(SQLModel, table=True):
    """The one certificate authority that all replicas share."""

    __tablename__ = "authority"

    id: int = Field(default=1, primary_key=True)
    certificate: str
    key: str = Field(sa_column=sealed_text("authority.key"))


class CertificateRow(SQLModel, table=True):
    """A certificate that the authority signed, by its SHA-256 thumbprint."""

    __tablename__ = "certificate"

    thumbprint: str = Field(primary_key=True)
    proxy_id: UUID = Field(foreign_key="proxy.id", index=True, ondelete="CASCADE")
    public_key: str
    issued_at: datetime = Field(sa_column=timestamp())
    expires_at: datetime = Field(sa_column=timestamp())


class JoinTokenRow(SQLModel, table=True):
    """The right to enrol proxies of one role in one fleet; only the token's SHA-256 is stored."""

    __tablename__ = "join_token"

    digest: str = Field(primary_key=True)
    fleet_id: UUID = Field(foreign_key="fleet.id", ondelete="CASCADE")
    role: str
    expires_at: datetime = Field(sa_column=timestamp())
    name: str | None = None
    """The only name that may enrol with this token, and then only one key. None: any name, any number of times."""
    used_by: str | None = None
    """The SHA-256 of the key that enrolled with a token for one name."""
