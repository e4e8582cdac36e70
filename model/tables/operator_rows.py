"""Operators: logins, API keys, throttled logins, signing key, and replies to repeated requests."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from model.sealed_columns import sealed_bytes, sealed_text
from model.tables.columns import timestamp


class OperatorRow(SQLModel, table=True):
    """An operator. All other tables refer to operators by id, so that personal data is in this row only."""

    __tablename__ = "operator"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str = Field(unique=True)
    role: str
    fleet_ids: list[str] | None = Field(default=None, sa_column=Column(JSONB(none_as_null=True)))
    """The fleets that the operator may see and change; None: all."""
    password_hash: str | None = None
    totp_secret: str | None = Field(default=None, sa_column=sealed_text("operator.totp_secret", nullable=True))
    totp_step: int | None = Field(default=None, sa_column=Column(BigInteger))
    """The newest time step whose TOTP code was used: no code is valid twice."""
    oidc_subject: str | None = Field(default=None, unique=True)
    """`issuer#subject` of the OIDC account that may log in as this operator."""
    disabled: bool = False
    last_login_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    created_at: datetime = Field(sa_column=timestamp())


class SessionRow(SQLModel, table=True):
    """A login. Its refresh token is replaced at each use, and only the digest of the newest is stored."""

    __tablename__ = "session"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    operator_id: UUID = Field(foreign_key="operator.id", index=True, ondelete="CASCADE")
    refresh_digest: str
    created_at: datetime = Field(sa_column=timestamp())
    expires_at: datetime = Field(sa_column=timestamp())


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
    expires_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    last_used_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    created_at: datetime = Field(sa_column=timestamp())


class ThrottleRow(SQLModel, table=True):
    """Failed logins for a name or from an address, by the digest of either."""

    __tablename__ = "throttle"

    key: str = Field(primary_key=True)
    failures: int
    blocked_until: datetime = Field(sa_column=timestamp())
    at: datetime = Field(sa_column=timestamp())


class SigningKeyRow(SQLModel, table=True):
    """The one key with which all replicas sign the tokens of operators."""

    __tablename__ = "signing_key"

    id: int = Field(default=1, primary_key=True)
    secret: bytes = Field(sa_column=sealed_bytes("signing_key.secret"))


class IdempotencyRow(SQLModel, table=True):
    """The stored reply to a POST with an Idempotency-Key, written in the transaction of that POST."""

    __tablename__ = "idempotency"

    actor_id: UUID = Field(primary_key=True)
    key: str = Field(primary_key=True)
    digest: str
    """The digest of the request."""
    status: int
    headers: dict[str, str] = Field(sa_column=Column(JSONB, nullable=False))
    body: str = Field(sa_column=sealed_text("idempotency.body"))
    """Sealed, because a reply may show a new key or token."""
    at: datetime = Field(sa_column=timestamp())
