"""How many requests are open at exits. A stub."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("heartbeat", sa.Column("open_requests", sa.Integer(), server_default="0", nullable=False))
