"""Listeners with several certificates, which are uploaded, issued, or read from a folder; an authority for each fleet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    # the defaults are for older versions that serve alongside, and for what is stored
    empty = sa.text("'[]'::jsonb")
    op.add_column("listener", sa.Column("additional_certificates", JSONB(), nullable=False, server_default=empty))
    op.add_column("listener", sa.Column("minimum_tls_version", sa.String(), nullable=False, server_default="1.2"))
    op.add_column("server_certificate", sa.Column("issued_for", JSONB(), nullable=False, server_default=empty))
    op.add_column("server_certificate", sa.Column("folder", sa.String(), nullable=True))
    op.add_column("server_certificate", sa.Column("folder_error", sa.String(), nullable=False, server_default=""))
    op.add_column(
        "server_certificate", sa.Column("expires_soon", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("server_certificate", sa.Column("valid_from", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "fleet_authority",
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fleet_id"], ["fleet.id"], name="fk_fleet_authority_fleet_id_fleet", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("fleet_id", name="pk_fleet_authority"),
    )
