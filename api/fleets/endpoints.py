"""The collection /fleets."""

from __future__ import annotations

from api.collections.router import router_of
from api.fleets.service import FLEETS

router = router_of(FLEETS)
