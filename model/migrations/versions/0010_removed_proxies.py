"""Proxies that were removed, so that a proxy that is merely unknown is not taken for one of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

NOTE = """
CREATE FUNCTION note_removed_proxy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO removed_proxy (id, at) VALUES (OLD.id, now()) ON CONFLICT (id) DO UPDATE SET at = excluded.at;
    RETURN NULL;
END $$
"""
ON_REMOVAL = "CREATE TRIGGER note_removal AFTER DELETE ON proxy FOR EACH ROW EXECUTE FUNCTION note_removed_proxy()"
REMOVED_BEFORE = """
INSERT INTO removed_proxy (id, at)
SELECT CAST(key AS uuid), max(at) FROM change WHERE kind = 'proxy' AND action = 'deleted' GROUP BY key
"""


def upgrade() -> None:
    op.create_table(
        "removed_proxy",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_removed_proxy"),
    )
    for statement in (NOTE, ON_REMOVAL, REMOVED_BEFORE):
        op.execute(statement)
