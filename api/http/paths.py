"""Paths and header names of the REST API, for the server and its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

BASE_PATH: Final = "/api/v1"
REVISION_HEADER: Final = "Exitplane-Revision"
PROXIES_HEADER: Final = "Exitplane-Proxies"
"""The numbers of affected, connected proxies that acknowledged, rejected, or did not respond in time."""

PATH_FIELDS: Final[Mapping[str, str]] = {
    "fleet": "{fleet}",
    "pool": "{pool}",
    "exit": "{exit_id}",
    "proxy": "{proxy_id}",
    "listener": "{listener}",
    "route": "{route}",
    "user": "{user}",
    "plan": "{plan}",
    "certificate": "{certificate}",
    "operator": "{operator}",
    "api-key": "{api_key_id}",
    "join-token": "{join_token_id}",
    "audit-event": "{sequence}",
    "channel": "{channel}",
    "message-rule": "{message_rule}",
    "message": "{message_id}",
}
"""The path parameter of each kind in the paths of its collection."""

PLURALS: Final[Mapping[str, str]] = {"proxy": "proxies"}
