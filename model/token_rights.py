"""The rights that a join token gives, and their limits. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from model.entities import Role

LIFETIME: Final = timedelta(hours=1)
"""The default lifetime."""
LIFETIME_MAX: Final = timedelta(days=30)
USES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class TokenRights:
    """The right to register proxies of one role in one fleet.

    `proxy_name` is the only name that may register; None: any name. With `takes_over`, the name may get another key.
    `uses` is the number of registrations; None: any number.
    """

    fleet_id: UUID
    role: Role
    proxy_name: str | None = None
    takes_over: bool = False
    uses: int | None = 1
