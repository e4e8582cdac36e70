"""The scopes of API keys: each allows to read or to write one collection."""

from __future__ import annotations

from typing import Final

_COLLECTIONS: Final = (
    "api-keys",
    "audit-events",
    "authority",
    "certificates",
    "channels",
    "declared",
    "discovery",
    "events",
    "exits",
    "explain",
    "fleets",
    "join-tokens",
    "keepalive",
    "listeners",
    "message-rules",
    "messages",
    "operators",
    "plans",
    "pools",
    "proxies",
    "routes",
    "status",
    "users",
)
_READ_ONLY: Final = frozenset({"audit-events", "authority", "discovery", "events", "explain", "messages", "status"})
_WRITE_ONLY: Final = frozenset({"keepalive"})
SCOPES: Final = frozenset(
    [f"{name}:read" for name in _COLLECTIONS if name not in _WRITE_ONLY]
    + [f"{name}:write" for name in _COLLECTIONS if name not in _READ_ONLY]
)
