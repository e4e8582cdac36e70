"""The collection /pools."""

from __future__ import annotations

from api.features.pools.service import POOLS
from api.kernel.collections.router import router_of

router = router_of(POOLS)
