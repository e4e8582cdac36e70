"""The addresses at which Prometheus scrapes replicas and proxies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("replica", sa.Column("metrics_address", sa.String(), nullable=True))
    op.add_column("heartbeat", sa.Column("metrics_address", sa.String(), nullable=True))
