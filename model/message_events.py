"""The events that messages are about, and the bounds of message rules. docs/messages.md lists the same events; a test compares."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class MessageEvent(StrEnum):
    """Something that operators may want to hear of."""

    EXIT_UP = "exit_up"
    EXIT_UNREACHABLE = "exit_unreachable"
    EXIT_LOST = "exit_lost"
    EXIT_LEAKING = "exit_leaking"
    EXIT_IDLE = "exit_idle"
    """It serves, but carries nothing."""
    EXIT_CAPPED = "exit_capped"
    """Its monthly traffic cap took it out."""
    ADDRESS_CHANGED = "address_changed"
    COUNTRY_CHANGED = "country_changed"
    PROXY_REJECTED = "proxy_rejected"
    CANARY_ROLLED_BACK = "canary_rolled_back"
    CERTIFICATE_EXPIRING = "certificate_expiring"
    CONTROL_PLANE_DEGRADED = "control_plane_degraded"


GOOD_NEWS: Final = frozenset({MessageEvent.EXIT_UP})
"""Lasting conditions that nobody recovers from."""
MOMENTS: Final = frozenset({MessageEvent.ADDRESS_CHANGED, MessageEvent.COUNTRY_CHANGED})
"""Events without a duration."""
FAULTS: Final = frozenset(MessageEvent) - GOOD_NEWS - MOMENTS
"""Conditions that begin and end, of whose end a recovery message tells."""
TITLES: Final[dict[MessageEvent, str]] = {
    MessageEvent.EXIT_UP: "serves",
    MessageEvent.EXIT_UNREACHABLE: "is unreachable",
    MessageEvent.EXIT_LOST: "is lost",
    MessageEvent.EXIT_LEAKING: "leaks",
    MessageEvent.EXIT_IDLE: "carries no traffic",
    MessageEvent.EXIT_CAPPED: "reached its monthly cap",
    MessageEvent.ADDRESS_CHANGED: "has another address",
    MessageEvent.COUNTRY_CHANGED: "comes out in another country",
    MessageEvent.PROXY_REJECTED: "rejects its configuration",
    MessageEvent.CANARY_ROLLED_BACK: "had a change-set rolled back",
    MessageEvent.CERTIFICATE_EXPIRING: "expires soon",
    MessageEvent.CONTROL_PLANE_DEGRADED: "is degraded",
}
"""The predicate of each event, for titles and lines of messages."""

COOLDOWN_MIN_S: Final = 60
"""With it, a rule sends at most two messages about one subject within a minute, however often that changes."""
IDLE_MIN_S: Final = 60
"""The shortest duration of a rule for EXIT_IDLE, whose traffic is compared every 30 s."""
