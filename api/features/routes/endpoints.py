"""The collection /routes."""

from __future__ import annotations

from api.features.routes.service import ROUTES
from api.kernel.collections.router import router_of

router = router_of(ROUTES)
