"""Channels, message rules, messages, and the Telegram bot's position."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.create_table(
        "message_channel",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("signing_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_message_channel"),
        sa.UniqueConstraint("name", name="uq_message_channel_name"),
    )
    op.create_table(
        "message_rule",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("events", JSONB(), nullable=False),
        sa.Column("fleet", sa.String(), nullable=True),
        sa.Column("pool", sa.String(), nullable=True),
        sa.Column("exit", sa.String(), nullable=True),
        sa.Column("threshold", sa.Integer(), nullable=False),
        sa.Column("within_s", sa.Integer(), nullable=False),
        sa.Column("for_s", sa.Integer(), nullable=False),
        sa.Column("cooldown_s", sa.Integer(), nullable=False),
        sa.Column("recovery", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_message_rule"),
        sa.UniqueConstraint("name", name="uq_message_rule_name"),
    )
    op.create_table(
        "message_rule_channel",
        sa.Column("rule_id", sa.Uuid(), nullable=False),
        sa.Column("channel_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["message_rule.id"], name="fk_message_rule_channel_rule_id_message_rule", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["channel_id"], ["message_channel.id"], name="fk_message_rule_channel_channel_id_message_channel"
        ),
        sa.PrimaryKeyConstraint("rule_id", "channel_id", name="pk_message_rule_channel"),
    )
    op.create_index("ix_message_rule_channel_channel_id", "message_rule_channel", ["channel_id"])
    op.create_table(
        "message_memory",
        sa.Column("rule_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("memory", JSONB(), nullable=False),
        sa.ForeignKeyConstraint(
            ["rule_id"], ["message_rule.id"], name="fk_message_memory_rule_id_message_rule", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rule_id", "subject", name="pk_message_memory"),
    )
    op.create_table(
        "message_position",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("change_id", sa.BigInteger(), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_message_position"),
    )
    op.create_table(
        "known_egress",
        sa.Column("exit_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("country", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["exit_id"], ["exit.id"], name="fk_known_egress_exit_id_exit", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("exit_id", name="pk_known_egress"),
    )
    op.create_table(
        "message",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("channel_id", sa.Uuid(), nullable=True),
        sa.Column("content", JSONB(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["channel_id"], ["message_channel.id"], name="fk_message_channel_id_message_channel", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_message"),
    )
    op.create_index(
        "ix_message_open",
        "message",
        ["channel_id", "due_at"],
        postgresql_where=sa.text("state = 'pending' OR state = 'sending'"),
    )
    op.create_index("ix_message_created_at", "message", ["created_at"])
    op.create_table(
        "telegram_bot",
        sa.Column("bot_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("next_update", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bot_id", name="pk_telegram_bot"),
    )
