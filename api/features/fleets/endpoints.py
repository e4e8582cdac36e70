"""The collection /fleets."""

from __future__ import annotations

from api.features.fleets.service import FLEETS
from api.kernel.collections.router import router_of

router = router_of(FLEETS)
