"""Where proxies and exits stand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("exit", sa.Column("locality", sa.String(), nullable=True))
    op.add_column("proxy", sa.Column("locality", sa.String(), nullable=True))
