"""Descriptions of routes in one sentence, for people who read a list of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from api.features.routes.schemas import ActionIn, MatchIn, TimesIn

_CONDITIONS: Final = {
    "countries": "for {}",
    "cities": "for the city {}",
    "pools": "for the pool {}",
    "sessions": "in the session {}",
    "users": "by {}",
    "groups": "by the group {}",
    "domains": "to {} and below",
    "networks": "to {}",
    "ports": "to port {}",
}
_VALUES_MAX: Final = 5


def sentence(match: MatchIn, action: ActionIn) -> str:
    """Describe a route in one sentence.

    For example: `Requests for de or fr, by the group staff, go to the pool de (3) or nl (1), then gb.`
    """
    conditions = [
        text.format(_join_or(values)) for name, text in _CONDITIONS.items() if (values := getattr(match, name))
    ]
    if match.times:
        conditions.append(_join_or(map(_describe_time, match.times)))
    subject = f"Requests {', '.join(conditions)}," if conditions else "All requests"
    return f"{subject} {_describe_action(action)}."


def _describe_action(action: ActionIn) -> str:
    if action.deny is not None:
        return f"are refused with {action.deny.status}"
    if action.pools is None:
        return "go where the client asks, and later routes are not tried"
    weights = len({each.weight for each in action.pools}) > 1
    to = _join_or(f"{each.pool} ({each.weight})" if weights else each.pool for each in action.pools)
    return ", then ".join([f"go to the pool {to}", *action.fallback])


def _describe_time(times: TimesIn) -> str:
    days = f" on {', '.join(times.days)}" if times.days else ""
    return f"from {times.begin} to {times.end} UTC{days}"


def _join_or(values: Iterable[str]) -> str:
    listed = list(values)
    if len(listed) > _VALUES_MAX:
        listed = [*listed[:_VALUES_MAX], f"{len(listed) - _VALUES_MAX} more"]
    *most, last = listed
    return f"{', '.join(most)} or {last}" if most else last
