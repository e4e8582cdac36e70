"""The spans that the Envoys of a fleet export."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0020"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("fleet", sa.Column("tracing", JSONB(), nullable=True))
