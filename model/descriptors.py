"""The file descriptors that this process may open, and their shares."""

from __future__ import annotations

import resource
from typing import Final

RESERVED: Final = 256
"""Descriptors for everything but clients: connections to PostgreSQL, listening sockets, programs, files."""
_MOST: Final = 10_000
"""The largest default for a listener. A waiting connection costs about 40 kB of memory."""


def raise_limit() -> int:
    """Raise the soft limit of this process to its hard limit, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def default_connections(descriptors: int) -> int:
    """Return the default for the connections of each of the two listeners, API and xDS."""
    return max(1, min((descriptors - RESERVED) // 2, _MOST))
