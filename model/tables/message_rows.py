"""Messages: channels, rules, what rules remember, and deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, Identity, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from model.sealed_columns import sealed_text
from model.tables.columns import timestamp


class ChannelRow(SQLModel, table=True):
    """A place that messages are sent to. Its URL, and the key that signs webhooks, are never shown."""

    __tablename__ = "message_channel"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str = Field(unique=True)
    service: str
    """`webhook`, or the scheme of the URL that Apprise understands."""
    url: str = Field(sa_column=sealed_text("message_channel.url"))
    signing_key: str | None = Field(default=None, sa_column=sealed_text("message_channel.signing_key", nullable=True))
    """The key of a webhook's signatures; None for other services."""
    created_at: datetime = Field(sa_column=timestamp())


class MessageRuleRow(SQLModel, table=True):
    """A rule by which events of some subjects become messages."""

    __tablename__ = "message_rule"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    name: str = Field(unique=True)
    enabled: bool = True
    events: list[str] = Field(sa_column=Column(JSONB, nullable=False))
    fleet: str | None = None
    """A pattern of names with `*`; None: any, also subjects without a fleet."""
    pool: str | None = None
    exit: str | None = None
    threshold: int
    within_s: int
    for_s: int
    cooldown_s: int
    recovery: bool
    created_at: datetime = Field(sa_column=timestamp())


class MessageRuleChannelRow(SQLModel, table=True):
    """A channel of a rule. Its foreign key keeps the channel from being removed."""

    __tablename__ = "message_rule_channel"

    rule_id: UUID = Field(foreign_key="message_rule.id", primary_key=True, ondelete="CASCADE")
    channel_id: UUID = Field(foreign_key="message_channel.id", primary_key=True, index=True)


class MessageMemoryRow(SQLModel, table=True):
    """The memory that a rule has of a subject (`keeper.messages.evaluation.SubjectMemory`)."""

    __tablename__ = "message_memory"

    rule_id: UUID = Field(foreign_key="message_rule.id", primary_key=True, ondelete="CASCADE")
    subject: str = Field(primary_key=True)
    memory: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))


class MessagePositionRow(SQLModel, table=True):
    """The single row with the id of the change up to which rules were evaluated. Its lock puts evaluations in order."""

    __tablename__ = "message_position"

    id: int = Field(default=1, primary_key=True)
    change_id: int = Field(sa_column=Column(BigInteger, nullable=False))
    round: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The number of the last evaluation."""


class KnownEgressRow(SQLModel, table=True):
    """The address and country of an exit of which rules were told last. Heartbeats hold only the present ones."""

    __tablename__ = "known_egress"

    exit_id: UUID = Field(foreign_key="exit.id", primary_key=True, ondelete="CASCADE")
    address: str
    country: str | None = None


class MessageRow(SQLModel, table=True):
    """A message to one channel, and its delivery."""

    __tablename__ = "message"
    __table_args__ = (
        Index(
            "ix_message_open", "channel_id", "due_at", postgresql_where=text("state = 'pending' OR state = 'sending'")
        ),
        Index(None, "created_at"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    created_at: datetime = Field(sa_column=timestamp())
    rule: str
    """The name of the rule, which may be gone."""
    channel: str
    """The name of the channel, which may be gone."""
    channel_id: UUID | None = Field(default=None, foreign_key="message_channel.id", ondelete="SET NULL")
    content: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    """`title`, `body`, `kind` and `items`, as `keeper.messages.texts` writes them."""
    state: str = "pending"
    """`pending`, `sending`, `sent` or `failed`."""
    attempts: int = 0
    due_at: datetime = Field(sa_column=timestamp())
    """The time of the next attempt; while `sending`, the time from which another replica may try again."""
    sent_at: datetime | None = Field(default=None, sa_column=timestamp(nullable=True))
    error: str = ""
    """The reason why the last attempt failed."""


class TelegramBotRow(SQLModel, table=True):
    """The position of the Telegram bot in the updates of its token. An update below it is never answered again."""

    __tablename__ = "telegram_bot"

    bot_id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    next_update: int = Field(sa_column=Column(BigInteger, nullable=False))
