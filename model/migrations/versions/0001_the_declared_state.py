"""The declared state, its revisions, and what is kept of heartbeats, enrolment and rollout."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "accepted",
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("type_url", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("group", "type_url", "name", name="pk_accepted"),
    )
    op.create_table(
        "authority",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_authority"),
    )
    op.create_table(
        "change",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("traceparent", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_change"),
    )
    op.create_index("ix_change_key", "change", ["key"], unique=False)
    op.create_index("ix_change_revision", "change", ["revision"], unique=False)
    op.create_table(
        "ear",
        sa.Column("replica", sa.String(), nullable=False),
        sa.Column("heard_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("replica", name="pk_ear"),
    )
    op.create_table(
        "fleet",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fleet"),
        sa.UniqueConstraint("name", name="uq_fleet_name"),
    )
    op.create_table(
        "heartbeat",
        sa.Column("proxy_id", sa.Uuid(), nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tunnel_up", sa.Boolean(), nullable=False),
        sa.Column("envoy_up", sa.Boolean(), nullable=False),
        sa.Column("leaving", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("proxy_id", name="pk_heartbeat"),
    )
    op.create_table(
        "rejection",
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("type_url", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("proxy_id", sa.Uuid(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("group", "type_url", "name", "version", name="pk_rejection"),
    )
    op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revision"),
    )
    op.execute("INSERT INTO revision (id, value) VALUES (1, 0)")
    op.create_table(
        "sync",
        sa.Column("proxy_id", sa.Uuid(), nullable=False),
        sa.Column("type_url", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("proxy_id", "type_url", name="pk_sync"),
    )
    op.create_table(
        "join_token",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_join_token_fleet_id_fleet", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest", name="pk_join_token"),
    )
    op.create_table(
        "listener",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_listener_fleet_id_fleet", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_listener"),
        sa.UniqueConstraint("fleet_id", name="uq_listener_fleet_id"),
    )
    op.create_table(
        "pool",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("country", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_pool_fleet_id_fleet"),
        sa.PrimaryKeyConstraint("id", name="pk_pool"),
        sa.UniqueConstraint("fleet_id", "country", name="uq_pool_fleet_id_country"),
        sa.UniqueConstraint("fleet_id", "name", name="uq_pool_fleet_id_name"),
    )
    op.create_table(
        "proxy",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_proxy_fleet_id_fleet"),
        sa.PrimaryKeyConstraint("id", name="pk_proxy"),
        sa.UniqueConstraint("fleet_id", "role", "name", name="uq_proxy_fleet_id_role_name"),
    )
    op.create_table(
        "certificate",
        sa.Column("thumbprint", sa.String(), nullable=False),
        sa.Column("proxy_id", sa.Uuid(), nullable=False),
        sa.Column("public_key", sa.String(), nullable=False),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["proxy_id"], ["proxy.id"], name="fk_certificate_proxy_id_proxy", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("thumbprint", name="pk_certificate"),
    )
    op.create_index("ix_certificate_proxy_id", "certificate", ["proxy_id"], unique=False)
    op.create_table(
        "exit",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pool_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=True),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("bind_address", sa.String(), nullable=False),
        sa.Column("egress_address", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("state_reason", sa.String(), nullable=False),
        sa.Column("state_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["pool_id"], ["pool.id"], name="fk_exit_pool_id_pool"),
        sa.PrimaryKeyConstraint("id", name="pk_exit"),
        sa.UniqueConstraint("pool_id", "name", name="uq_exit_pool_id_name"),
    )
    op.create_index("ix_exit_pool_id", "exit", ["pool_id"], unique=False)
