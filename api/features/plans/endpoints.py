"""The collection /plans."""

from __future__ import annotations

from api.features.plans.service import PLANS
from api.kernel.collections.router import router_of

router = router_of(PLANS)
