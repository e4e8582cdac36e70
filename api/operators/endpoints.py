"""The collection /operators."""

from __future__ import annotations

from api.collections.router import router_of
from api.operators.service import OPERATORS

router = router_of(OPERATORS)
