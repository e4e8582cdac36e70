"""Two fields of a pool's stored resilience get the names of flap detection."""

from __future__ import annotations

from collections.abc import Mapping

from alembic import op

revision = "0009"
down_revision = "0008"

NAMES = {"falls_borne": "flap_threshold", "falls_window_s": "flap_window_s"}


def upgrade() -> None:
    _rename(NAMES)


def downgrade() -> None:
    _rename({new: old for old, new in NAMES.items()})


def _rename(names: Mapping[str, str]) -> None:
    for old, new in names.items():
        renamed = f"resilience - '{old}' || jsonb_build_object('{new}', resilience -> '{old}')"
        op.execute(f"UPDATE pool SET resilience = {renamed} WHERE jsonb_exists(resilience, '{old}')")  # noqa: S608 - constants
