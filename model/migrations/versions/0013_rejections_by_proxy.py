"""Rejections of each proxy, so that one alone holds nothing back, and operators' orders to release in spite of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    # what was rejected before is tried once more
    op.create_table(
        "proxy_rejection",
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("type_url", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("proxy_id", sa.Uuid(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("group", "type_url", "name", "version", "proxy_id", name="pk_proxy_rejection"),
    )
    op.create_table(
        "rollout_override",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("change_set", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["fleet_id"], ["fleet.id"], name="fk_rollout_override_fleet_id_fleet", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("group", "change_set", name="uq_rollout_override_group_change_set"),
        sa.PrimaryKeyConstraint("id", name="pk_rollout_override"),
    )
