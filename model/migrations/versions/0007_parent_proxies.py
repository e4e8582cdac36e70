"""HTTP proxies that exits send all traffic on to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("exit", sa.Column("parent_address", sa.String(), nullable=True))
    op.add_column("exit", sa.Column("parent_port", sa.Integer(), nullable=True))
    op.add_column("exit", sa.Column("parent_username", sa.String(), nullable=True))
    op.add_column("exit", sa.Column("parent_password", sa.String(), nullable=True))
