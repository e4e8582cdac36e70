"""Exits that run in containers: what pools say of them, and what the keeper knows and is asked to do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"


def _time(name: str, *, nullable: bool = True) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.String(), nullable=False)


def upgrade() -> None:
    op.add_column("pool", sa.Column("containers", JSONB(), nullable=True))
    for name in ("name", "used_by"):
        op.add_column("join_token", sa.Column(name, sa.String(), nullable=True))
    op.create_table(
        "container",
        _text("name"),
        sa.Column("pool_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        _time("started_at", nullable=False),
        _time("leaving_since"),
        sa.Column("held", sa.Boolean(), nullable=False),
        _text("life"),
        _text("status"),
        sa.PrimaryKeyConstraint("name", name="pk_container"),
        sa.UniqueConstraint("pool_id", "slot", name="uq_container_pool_id_slot"),
    )
    op.create_table(
        "container_pool",
        sa.Column("pool_id", sa.Uuid(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        _time("retry_at"),
        _text("error"),
        _time("error_since"),
        sa.ForeignKeyConstraint(["pool_id"], ["pool.id"], name="fk_container_pool_pool_id_pool", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pool_id", name="pk_container_pool"),
    )
    op.create_table(
        "container_engine",
        sa.Column("id", sa.Integer(), nullable=False),
        _text("address"),
        _time("looked_at", nullable=False),
        _text("error"),
        _time("error_since"),
        sa.PrimaryKeyConstraint("id", name="pk_container_engine"),
    )
    op.create_table(
        "container_wish",
        sa.Column("id", sa.Uuid(), nullable=False),
        _text("container"),
        _text("verb"),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("in_turn", sa.Boolean(), nullable=False),
        _time("asked_at", nullable=False),
        _time("done_at"),
        _text("answer"),
        _text("error"),
        sa.PrimaryKeyConstraint("id", name="pk_container_wish"),
    )
    op.create_index("ix_container_wish_container", "container_wish", ["container"])
