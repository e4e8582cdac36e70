"""Certificates that renew by themselves, the chain and the next issuer of the authority, and what a revocation list needs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

# Neither the removal of a proxy nor any other way of ending a certificate can forget to note it.
NOTE = """
CREATE FUNCTION note_revoked_certificate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.serial IS NOT NULL AND OLD.expires_at > now() THEN
        INSERT INTO revoked_certificate (issuer, serial, at, expires_at)
        VALUES (OLD.issuer, OLD.serial, COALESCE(OLD.revoked_at, now()), OLD.expires_at) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$
"""
ON_DELETE = """
CREATE TRIGGER note_revocation AFTER DELETE ON certificate FOR EACH ROW EXECUTE FUNCTION note_revoked_certificate()
"""
# Containers are known by the base64url of the root's thumbprint until now, and keep that name when the root changes.
NAME_INSTANCE = """
UPDATE authority SET instance = left(translate(encode(sha256(decode(
    regexp_replace(certificate, '-----[A-Z ]+-----', '', 'g'), 'base64')), 'base64'), '+/', '-_'), 16)
"""


def upgrade() -> None:
    op.add_column("authority", sa.Column("chain", sa.String(), nullable=False, server_default=""))
    op.add_column("authority", sa.Column("root_key", sa.String(), nullable=True))
    op.add_column("authority", sa.Column("instance", sa.String(), nullable=False, server_default=""))
    for each in ("signed_at", "revoked_at"):
        op.add_column("certificate", sa.Column(each, sa.DateTime(timezone=True), nullable=True))
    for each in ("issuer", "serial", "authority"):
        op.add_column("certificate", sa.Column(each, sa.String(), nullable=True))
    op.create_table(
        "revoked_certificate",
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "serial", name="pk_revoked_certificate"),
    )
    op.execute(NOTE)
    op.execute(ON_DELETE)
    op.execute(NAME_INSTANCE)
