"""What exits carry and cost; where their states came from; what operators ask of their agents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

NOTE = """
CREATE OR REPLACE FUNCTION note_exit_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO exit_history (exit_id, at, state, reason, previous)
    VALUES (NEW.id, NEW.state_since, NEW.state, NEW.state_reason, CASE TG_OP WHEN 'UPDATE' THEN OLD.state END);
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    for column in (
        sa.Column("capacity", sa.Integer(), nullable=True),
        sa.Column("cost", sa.Float(), nullable=True),
        sa.Column("monthly_cap_gb", sa.Float(), nullable=True),
        sa.Column("share", sa.Integer(), server_default="1", nullable=False),
        sa.Column("capped", sa.Boolean(), server_default=sa.false(), nullable=False),
    ):
        op.add_column("exit", column)
    op.add_column("exit_history", sa.Column("previous", sa.String(), nullable=True))
    op.execute(NOTE)
    op.add_column("heartbeat", sa.Column("open_requests", sa.Integer(), server_default="0", nullable=False))
    for name in ("carried_bytes", "month_bytes"):
        op.add_column("heartbeat", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "exit_order",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("exit_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("detail", JSONB(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", JSONB(), nullable=True),
        sa.Column("trouble", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["exit_id"], ["exit.id"], name="fk_exit_order_exit_id_exit", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_exit_order"),
    )
    op.create_index("ix_exit_order_exit_id_asked_at", "exit_order", ["exit_id", "asked_at"])
