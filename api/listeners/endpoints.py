"""The collection /listeners."""

from __future__ import annotations

from api.collections.router import router_of
from api.listeners.service import LISTENERS

router = router_of(LISTENERS)
