"""Rollouts, and where proxies stand. What was known of the latter is not kept: proxies say it again when they connect."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_table("sync")
    op.create_table(
        "sync",
        sa.Column("proxy_id", sa.Uuid(), nullable=False),
        sa.Column("type_url", sa.String(), nullable=False),
        sa.Column("replica", sa.Uuid(), nullable=True),
        sa.Column("wanted_revision", sa.BigInteger(), nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_revision", sa.BigInteger(), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("accepted_revision", sa.BigInteger(), nullable=True),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rejected_revision", sa.BigInteger(), nullable=True),
        sa.Column("rejected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("proxy_id", "type_url", name="pk_sync"),
    )
    op.create_table(
        "replica",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_replica"),
    )
    op.create_table(
        "canary",
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("proxy_id", sa.Uuid(), nullable=False),
        sa.Column("replica", sa.Uuid(), nullable=False),
        sa.Column("accepted", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("group", "proxy_id", name="pk_canary"),
    )
    op.create_index("ix_canary_replica", "canary", ["replica"], unique=False)
    op.create_table(
        "rollout",
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("change_sets", JSONB(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("group", name="pk_rollout"),
    )
    op.create_index("ix_rollout_fleet_id", "rollout", ["fleet_id"], unique=False)
    op.create_table(
        "approval",
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_approval_fleet_id_fleet", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("fleet_id", name="pk_approval"),
    )
    op.create_table(
        "question",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("proxy_id", sa.Uuid(), nullable=False),
        sa.Column("resource", sa.String(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answer", JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_question"),
    )
    op.create_index("ix_question_proxy_id", "question", ["proxy_id"], unique=False)
    op.alter_column("rejection", "proxy_id", nullable=True)
