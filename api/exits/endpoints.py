"""The collection /exits."""

from __future__ import annotations

from api.collections.router import router_of
from api.exits.service import EXITS

router = router_of(EXITS)
