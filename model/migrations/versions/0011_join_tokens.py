"""Join tokens that are counted, listed and revoked; certificates that end when another key takes over a name.

Tokens of release 0.1.0 keep no id, and so are valid no more: nobody could list or revoke them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("join_token", sa.Column("id", sa.Uuid(), nullable=True))
    op.add_column("join_token", sa.Column("token_name", sa.String(), nullable=False, server_default=""))
    op.add_column("join_token", sa.Column("takes_over", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.add_column("join_token", sa.Column("uses", sa.Integer(), nullable=True))
    op.add_column("join_token", sa.Column("used", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("join_token", sa.Column("created_by", sa.Uuid(), nullable=True))
    for name in ("created_at", "last_used_at", "revoked_at", "refused_at"):
        op.add_column("join_token", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    replaced = sa.Column("replaced_certificates", postgresql.JSONB(), nullable=False, server_default="[]")
    op.add_column("proxy", replaced)
    op.add_column("heartbeat", sa.Column("certificate", sa.String(), nullable=True))
