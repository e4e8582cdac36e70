"""The collection /certificates."""

from __future__ import annotations

from api.certificates.service import CERTIFICATES
from api.collections.router import router_of

router = router_of(CERTIFICATES)
