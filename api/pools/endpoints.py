"""The collection /pools."""

from __future__ import annotations

from api.collections.router import router_of
from api.pools.service import POOLS

router = router_of(POOLS)
