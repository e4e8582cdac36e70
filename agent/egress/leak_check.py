"""The result of one leak check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MESSAGE_MAX_CHARS: Final = 500
"""The API's limit for one message. It would refuse a heartbeat with a longer one, and the exit would count as silent."""


@dataclass(frozen=True, slots=True)
class LeakFinding:
    """The result of one leak check, as messages for operators.

    `leak` says which traffic leaves outside the tunnel, `error` why the check has no result, and `note` what failed without
    effect on the result.
    """

    leak: str = ""
    error: str = ""
    note: str = ""
    observed: str | None = None
    """The resolvers, or the IPv6 address, that the check saw."""


def join_messages(parts: Iterable[str]) -> str:
    """Join the distinct non-empty messages, and cut the result to `MESSAGE_MAX_CHARS`."""
    return "; ".join(dict.fromkeys(filter(None, parts)))[:MESSAGE_MAX_CHARS]
