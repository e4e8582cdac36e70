"""The collection /certificates."""

from __future__ import annotations

from api.features.certificates.service import CERTIFICATES
from api.kernel.collections.router import router_of

router = router_of(CERTIFICATES)
