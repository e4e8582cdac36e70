"""The routes that take requests without an operator's credential. All other routes are closed by default."""

from __future__ import annotations

import re
from typing import Final

_PUBLIC_PATHS: Final = {
    "GET": re.compile(
        r"/health(/ready|/startup)?|/docs|/swagger-ui/[^/]+|/openapi\.json|/api/v1/auth/oidc/(login|callback)"
    ),
    # proxies send a join token or a signature; a caller who logs in or refreshes has no access token yet
    "POST": re.compile(
        r"/api/v1/(exits|proxies)/(register|[^/]+/(heartbeat|certificate))|/api/v1/auth/(login|refresh)"
    ),
}


def is_public(method: str, path: str) -> bool:
    """Check if a request needs no operator's credential."""
    known = _PUBLIC_PATHS.get(method)
    return known is not None and known.fullmatch(path) is not None
