"""Root certificates as a table of their own, so that the World has them and there may be two during a change of roots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "trusted_authority",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_trusted_authority"),
    )
    op.execute("INSERT INTO trusted_authority (id, certificate) SELECT gen_random_uuid(), certificate FROM authority")
