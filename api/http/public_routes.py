"""What is open to those who are no operators; all else is closed, whether somebody thought of it or not."""

from __future__ import annotations

import re
from typing import Final

_OPEN: Final = {
    "GET": re.compile(
        r"/health(/ready|/startup)?|/docs(/oauth2-redirect)?|/openapi\.json|/api/v1/auth/oidc/(login|callback)"
    ),
    # proxies show a join token or a proof of their own; who logs in or refreshes has yet to show who they are
    "POST": re.compile(r"/api/v1/(exits|proxies)/(register|[^/]+/heartbeat)|/api/v1/auth/(login|refresh)"),
}


def is_open(method: str, path: str) -> bool:
    """Whether nobody need be an operator for this."""
    known = _OPEN.get(method)
    return known is not None and known.fullmatch(path) is not None
