"""The collection /routes."""

from __future__ import annotations

from api.collections.router import router_of
from api.routes.service import ROUTES

router = router_of(ROUTES)
