"""Listeners, routes, users and plans; operators, their sessions and keys; the audit's chain, and what events say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

APPEND_ONLY = """
CREATE FUNCTION refuse_to_change_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit events are append-only';
END $$
"""
GUARD = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_audit()
"""


def upgrade() -> None:
    op.create_table(
        "audit_event",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("api_key_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=True),
        sa.Column("fleet_id", sa.Uuid(), nullable=True),
        sa.Column("detail", JSONB(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_event"),
    )
    op.create_index("ix_audit_event_fleet_id", "audit_event", ["fleet_id"], unique=False)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.create_table(
        "idempotency",
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", JSONB(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("actor_id", "key", name="pk_idempotency"),
    )
    op.create_table(
        "keepalive",
        sa.Column("client_id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("body", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("client_id", name="pk_keepalive"),
    )
    op.create_table(
        "operator",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("fleet_ids", JSONB(), nullable=True),
        sa.Column("password_hash", sa.String(), nullable=True),
        sa.Column("totp_secret", sa.String(), nullable=True),
        sa.Column("totp_step", sa.BigInteger(), nullable=True),
        sa.Column("oidc_subject", sa.String(), nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("last_login_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operator"),
        sa.UniqueConstraint("name", name="uq_operator_name"),
        sa.UniqueConstraint("oidc_subject", name="uq_operator_oidc_subject"),
    )
    op.create_table(
        "signing_key",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_signing_key"),
    )
    op.create_table(
        "throttle",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("blocked_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_throttle"),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("operator_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("fleet_ids", JSONB(), nullable=True),
        sa.Column("scopes", JSONB(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["operator.id"], name="fk_api_key_operator_id_operator", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("digest", name="uq_api_key_digest"),
        sa.UniqueConstraint("operator_id", "name", name="uq_api_key_operator_id_name"),
    )
    op.create_table(
        "plan",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("bandwidth_bps", sa.BigInteger(), nullable=True),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("tunnels", sa.Integer(), nullable=True),
        sa.Column("monthly_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_plan_fleet_id_fleet"),
        sa.PrimaryKeyConstraint("id", name="pk_plan"),
        sa.UniqueConstraint("fleet_id", "name", name="uq_plan_fleet_id_name"),
    )
    op.create_table(
        "route",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("match", JSONB(), nullable=False),
        sa.Column("action", JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_route_fleet_id_fleet"),
        sa.PrimaryKeyConstraint("id", name="pk_route"),
        sa.UniqueConstraint("fleet_id", "name", name="uq_route_fleet_id_name"),
    )
    op.create_table(
        "server_certificate",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("chain", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("server_names", JSONB(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_server_certificate_fleet_id_fleet"),
        sa.PrimaryKeyConstraint("id", name="pk_server_certificate"),
        sa.UniqueConstraint("fleet_id", "name", name="uq_server_certificate_fleet_id_name"),
    )
    op.create_table(
        "session",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("operator_id", sa.Uuid(), nullable=False),
        sa.Column("refresh_digest", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["operator.id"], name="fk_session_operator_id_operator", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_session"),
    )
    op.create_index("ix_session_operator_id", "session", ["operator_id"], unique=False)
    op.create_table(
        "route_pool",
        sa.Column("route_id", sa.Uuid(), nullable=False),
        sa.Column("pool_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["pool_id"], ["pool.id"], name="fk_route_pool_pool_id_pool"),
        sa.ForeignKeyConstraint(["route_id"], ["route.id"], name="fk_route_pool_route_id_route", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("route_id", "pool_id", name="pk_route_pool"),
    )
    op.create_index("ix_route_pool_pool_id", "route_pool", ["pool_id"], unique=False)
    op.create_table(
        "user_account",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("fleet_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("group", sa.String(), nullable=True),
        sa.Column("plan_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["fleet_id"], ["fleet.id"], name="fk_user_account_fleet_id_fleet"),
        sa.ForeignKeyConstraint(["plan_id"], ["plan.id"], name="fk_user_account_plan_id_plan"),
        sa.PrimaryKeyConstraint("id", name="pk_user_account"),
        sa.UniqueConstraint("fleet_id", "name", name="uq_user_account_fleet_id_name"),
    )
    op.create_index("ix_user_account_plan_id", "user_account", ["plan_id"], unique=False)
    op.add_column("change", sa.Column("action", sa.String(), nullable=True))
    op.add_column("change", sa.Column("fleet_id", sa.Uuid(), nullable=True))
    op.add_column("change", sa.Column("detail", JSONB(), nullable=True))
    op.add_column("listener", sa.Column("name", sa.String(), server_default="clients", nullable=False))
    op.add_column("listener", sa.Column("country", sa.String(), nullable=True))
    op.add_column("listener", sa.Column("pool_id", sa.Uuid(), nullable=True))
    op.add_column("listener", sa.Column("certificate_id", sa.Uuid(), nullable=True))
    op.add_column(
        "listener",
        sa.Column("countries_by_server_name", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.add_column("listener", sa.Column("created_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_constraint("uq_listener_fleet_id", "listener", type_="unique")
    op.create_index("ix_listener_certificate_id", "listener", ["certificate_id"], unique=False)
    op.create_index("ix_listener_pool_id", "listener", ["pool_id"], unique=False)
    op.create_unique_constraint("uq_listener_fleet_id_address_port", "listener", ["fleet_id", "address", "port"])
    op.create_unique_constraint("uq_listener_fleet_id_name", "listener", ["fleet_id", "name"])
    op.create_foreign_key(
        "fk_listener_certificate_id_server_certificate", "listener", "server_certificate", ["certificate_id"], ["id"]
    )
    op.create_foreign_key("fk_listener_pool_id_pool", "listener", "pool", ["pool_id"], ["id"])
    op.add_column("pool", sa.Column("city", sa.String(), server_default="", nullable=False))
    op.add_column("pool", sa.Column("only_by_name", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.drop_constraint("uq_pool_fleet_id_country", "pool", type_="unique")
    op.create_index(
        "uq_pool_fleet_id_country_city",
        "pool",
        ["fleet_id", "country", "city"],
        unique=True,
        postgresql_where=sa.text("NOT only_by_name"),
    )
    for column in ("name", "state_since", "created_at"):
        op.create_index(f"ix_exit_{column}_id", "exit", [column, "id"])
    op.create_index("ix_proxy_name_id", "proxy", ["name", "id"])
    op.create_index("ix_user_account_name_id", "user_account", ["name", "id"])
    op.create_index("ix_user_account_prefix", "user_account", ["name"], postgresql_ops={"name": "text_pattern_ops"})
    op.execute(APPEND_ONLY)
    op.execute(GUARD)
    op.execute("INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, '')")
