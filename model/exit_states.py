"""The states of an exit, and the rules by which it moves between them, as tables.

The tables have two readers: `keeper.exit_health` applies them to one exit, and `model.repositories.exit_reports` makes SQL of
them to find the exits that would move. Pure: no database, no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import Final


class ExitState(StrEnum):
    """The state of an exit. Only healthy and degraded exits are offered to clients (docs/architecture.md#fail-closed)."""

    REGISTERING = "registering"
    """Declared or enrolled, without a heartbeat so far."""
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """Serves after the healthy ones: it is slow or full, or sources disagree about its country."""
    VERIFYING = "verifying"
    """Up, but not (or no longer) observed to come out in its pool's country."""
    UNVERIFIED = "unverified"
    """Up, but its agent observes nothing, and its pool does not allow that."""
    LEAKING = "leaking"
    """Its traffic was observed outside its tunnel."""
    UNREACHABLE = "unreachable"
    """It reported that its tunnel or its Envoy is down, or was silent for longer than the heartbeat timeout."""
    LOST = "lost"
    """Silent for so long that nobody should wait for it."""
    DRAINING = "draining"
    """Ended by an operator or its traffic cap: offered to nobody, while its open tunnels go on until their clients are done."""
    DISABLED = "disabled"
    """Taken out by an operator."""


SERVING: Final = frozenset({ExitState.HEALTHY, ExitState.DEGRADED})
"""States in which clients are sent to an exit."""
TAKEN_OUT: Final = frozenset({ExitState.DRAINING, ExitState.DISABLED})
"""States that an operator or a traffic cap put an exit into. No heartbeat moves it out of them."""
_UP: Final = SERVING | {ExitState.VERIFYING, ExitState.UNVERIFIED, ExitState.LEAKING}
"""States of an exit whose tunnel and Envoy are up."""


class ExitCondition(Enum):
    """Something that can be wrong with an exit, according to its last heartbeat or to its silence."""

    LONG_SILENT = auto()
    """Silent for longer than the time after which an exit is lost."""
    STOPPING = auto()
    ENVOY_DOWN = auto()
    """An exit that leaks ends its Envoy itself, so this does not hold while it leaks."""
    TUNNEL_DOWN = auto()
    SILENT = auto()
    """Silent for longer than the heartbeat timeout."""
    LEAKS = auto()
    NOT_OBSERVED = auto()
    """Its agent observes nothing, and its pool does not have `allow_unverified`."""
    COUNTRY_UNKNOWN = auto()
    WRONG_COUNTRY = auto()
    SOURCES_DISAGREE = auto()
    SLOW = auto()
    """Its round trips take longer than its pool's `degraded_above_ms`."""
    FULL = auto()
    """It carries as many requests as its capacity, or more."""


STATE_BY_CONDITION: Final[Mapping[ExitCondition, ExitState]] = MappingProxyType(
    {
        ExitCondition.LONG_SILENT: ExitState.LOST,
        ExitCondition.STOPPING: ExitState.UNREACHABLE,
        ExitCondition.ENVOY_DOWN: ExitState.UNREACHABLE,
        ExitCondition.TUNNEL_DOWN: ExitState.UNREACHABLE,
        ExitCondition.SILENT: ExitState.UNREACHABLE,
        ExitCondition.LEAKS: ExitState.LEAKING,
        ExitCondition.NOT_OBSERVED: ExitState.UNVERIFIED,
        ExitCondition.COUNTRY_UNKNOWN: ExitState.VERIFYING,
        ExitCondition.WRONG_COUNTRY: ExitState.VERIFYING,
        ExitCondition.SOURCES_DISAGREE: ExitState.DEGRADED,
        ExitCondition.SLOW: ExitState.DEGRADED,
        ExitCondition.FULL: ExitState.DEGRADED,
    }
)
"""The state that each condition calls for. The first that holds decides; an exit without any is healthy."""

NEEDS_NEW_HEARTBEAT: Final[Mapping[ExitState, frozenset[ExitState]]] = MappingProxyType(
    {
        ExitState.REGISTERING: _UP,
        ExitState.VERIFYING: _UP,
        ExitState.UNVERIFIED: _UP,
        ExitState.LEAKING: _UP,
        ExitState.UNREACHABLE: _UP,
        ExitState.LOST: _UP | {ExitState.UNREACHABLE},
    }
)
"""By present state, the states that an exit takes only on a heartbeat that is newer than its present state."""

RECOVERY_FACTOR: Final = 0.8
"""The part of a limit (round trip, capacity) that a degraded exit has to be below to be healthy again."""


def may_move(present: ExitState, wanted: ExitState, *, heartbeat_is_new: bool) -> bool:
    """Tell whether an exit moves from its present state to the one that its conditions call for."""
    if present in TAKEN_OUT or wanted is present:
        return False
    return heartbeat_is_new or wanted not in NEEDS_NEW_HEARTBEAT.get(present, frozenset())
