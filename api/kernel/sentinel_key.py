"""How VPN Sentinel's clients send their key: `X-API-Key`, or Bearer before they were written in Python."""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers

HEADER: Final = "X-API-Key"
_PATHS: Final = re.compile(r"/api/v1/(keepalive|status)")


def authorization_of(path: str, headers: Headers) -> str | None:
    """The Authorization header; on the paths of these clients one that stands for their own."""
    given = headers.get("authorization")
    if given is None and HEADER in headers and _PATHS.fullmatch(path):
        return f"Bearer {headers[HEADER]}"
    return given
