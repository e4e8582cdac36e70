"""The times of heartbeats' signatures, so that only a newer heartbeat replaces one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    # any signature is newer than those of before the migration
    signed_at = sa.Column(
        "signed_at", sa.DateTime(timezone=True), nullable=False, server_default="1970-01-01 00:00:00+00"
    )
    op.add_column("heartbeat", signed_at)
