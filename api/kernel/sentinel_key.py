"""The API key of VPN Sentinel's clients, which newer ones send as `X-API-Key` and older ones as Bearer."""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers

HEADER: Final = "X-API-Key"
_PATHS: Final = re.compile(r"/api/v1/(keepalive|status)")


def read_authorization(path: str, headers: Headers) -> str | None:
    """Read the Authorization header. On the paths of these clients, X-API-Key replaces a missing one."""
    header = headers.get("authorization")
    if header is None and HEADER in headers and _PATHS.fullmatch(path):
        return f"Bearer {headers[HEADER]}"
    return header
