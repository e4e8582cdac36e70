"""The collection /plans."""

from __future__ import annotations

from api.collections.router import router_of
from api.plans.service import PLANS

router = router_of(PLANS)
