"""Limits of query parameters, for the API and for the command line."""

from __future__ import annotations

from typing import Final

HISTORY_HOURS_MAX: Final = 24 * 90
AGENT_LOG_LINES_MAX: Final = 1_000
CONTAINER_LOG_LINES_MAX: Final = 10_000
