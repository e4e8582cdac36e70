"""The secrets of users, whether they are admitted, and the listeners that ask for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    empty = sa.text("'[]'::jsonb")
    op.add_column("listener", sa.Column("authentication", JSONB(), nullable=False, server_default=empty))
    op.add_column("user_account", sa.Column("secrets", JSONB(), nullable=False, server_default=empty))
    op.add_column("user_account", sa.Column("enabled", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("user_account", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
