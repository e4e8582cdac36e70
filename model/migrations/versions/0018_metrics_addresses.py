"""The addresses at which Prometheus scrapes replicas and proxies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("replica", sa.Column("metrics_address", sa.String(), nullable=True))
    op.add_column("heartbeat", sa.Column("metrics_address", sa.String(), nullable=True))
