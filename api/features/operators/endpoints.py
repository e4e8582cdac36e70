"""The collection /operators."""

from __future__ import annotations

from api.features.operators.service import OPERATORS
from api.kernel.collections.router import router_of

router = router_of(OPERATORS)
