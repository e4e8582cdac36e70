"""How pools balance and what they bear; weights of exits; what exits went through, and what was seen of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"

NOTE = """
CREATE FUNCTION note_exit_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO exit_history (exit_id, at, state, reason) VALUES (NEW.id, NEW.state_since, NEW.state, NEW.state_reason);
    RETURN NULL;
END $$
"""
ON_NEW = "CREATE TRIGGER note_first_state AFTER INSERT ON exit FOR EACH ROW EXECUTE FUNCTION note_exit_state()"
ON_CHANGE = """
CREATE TRIGGER note_state AFTER UPDATE OF state ON exit FOR EACH ROW WHEN (OLD.state <> NEW.state)
EXECUTE FUNCTION note_exit_state()
"""


def upgrade() -> None:
    for name in ("balancing", "resilience"):
        op.add_column("pool", sa.Column(name, JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False))
    op.add_column("exit", sa.Column("weight", sa.Integer(), server_default="1", nullable=False))
    op.add_column("exit", sa.Column("standby", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("heartbeat", sa.Column("observation", JSONB(), nullable=True))
    op.create_table(
        "exit_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("exit_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["exit_id"], ["exit.id"], name="fk_exit_history_exit_id_exit", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_exit_history"),
    )
    op.create_index("ix_exit_history_exit_id_at", "exit_history", ["exit_id", "at"])

    op.execute(
        "INSERT INTO exit_history (exit_id, at, state, reason) SELECT id, state_since, state, state_reason FROM exit"
    )
    for statement in (NOTE, ON_NEW, ON_CHANGE):
        op.execute(statement)
