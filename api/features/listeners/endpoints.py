"""The collection /listeners."""

from __future__ import annotations

from api.features.listeners.service import LISTENERS
from api.kernel.collections.router import router_of

router = router_of(LISTENERS)
