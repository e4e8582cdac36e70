"""The locality of a proxy: a region, or a region and a zone (Envoy's `core.v3.Locality`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = r"[a-z0-9-]{1,63}"
LOCALITY_PATTERN = f"{_PART}(/{_PART})?"
_LOCALITY = re.compile(LOCALITY_PATTERN)


@dataclass(frozen=True, slots=True)
class Locality:
    """Written as `region` or `region/zone`. The zone may be empty; an unknown locality is None, never an empty region."""

    region: str
    zone: str = ""

    @classmethod
    def parse(cls, text: str) -> Locality:
        """Parse `region` or `region/zone`. Raises ValueError."""
        if not _LOCALITY.fullmatch(text):
            raise ValueError(f"{text!r} is not region or region/zone")
        region, _, zone = text.partition("/")
        return cls(region, zone)

    def __str__(self) -> str:
        return f"{self.region}/{self.zone}" if self.zone else self.region
