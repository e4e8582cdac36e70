"""Pools say whether they offer exits that nothing verifies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    # existing pools, and those of an older version that serves alongside, offer them as before
    op.add_column("pool", sa.Column("allow_unverified", sa.Boolean(), nullable=False, server_default=sa.true()))
