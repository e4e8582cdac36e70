"""The collection /users."""

from __future__ import annotations

from api.features.users.service import USERS
from api.kernel.collections.router import router_of

router = router_of(USERS)
