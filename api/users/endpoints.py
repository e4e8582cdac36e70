"""The collection /users."""

from __future__ import annotations

from api.collections.router import router_of
from api.users.service import USERS

router = router_of(USERS)
