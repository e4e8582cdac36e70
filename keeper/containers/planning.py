"""The plan for the containers of one pool: a pure function of the pool's settings and of what was observed.

A container is identified by its slot, a number from 1 on. The replacement of a lost container has its slot, its name and so its
exit. A container that is removed for good is drained first, and its exit is deregistered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from keeper.containers.engine_responses import ContainerState
from keeper.containers.scaling import PoolScale, back_off, scale_to_load
from model.exit_states import SERVING, TAKEN_OUT, ExitState
from model.stored_containers import DRAIN_S, ContainerSettings

ENROL_WITHIN: Final = timedelta(seconds=120)
"""The time that a container may take from its start to its exit's first heartbeat."""
STABLE_AFTER: Final = timedelta(seconds=60)
"""The time that all containers of a pool must have served until its failures are reset."""


@dataclass(frozen=True, slots=True)
class ObservedExit:
    """The exit in a container. `heard_at` is None for an exit that never sent a heartbeat."""

    state: ExitState
    state_since: datetime
    heard_at: datetime | None
    open_requests: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A container of a pool by its row, whether the engine has it or not."""

    number: int
    name: str
    state: ContainerState
    started_at: datetime
    """The time of its last start, or of the attempt."""
    leaving_since: datetime | None = None
    """The start of its removal for good; None: it stays."""
    held: bool = False
    """An operator stopped it."""
    outdated: bool = False
    """It was created with other settings than the pool has now."""
    status: str = ""
    """The engine's own sentence."""
    exit: ObservedExit | None = None

    @property
    def serves(self) -> bool:
        return (
            self.state is ContainerState.RUNNING
            and self.exit is not None
            and self.exit.state in SERVING
            and self.has_reported
        )

    @property
    def has_reported(self) -> bool:
        """Tell whether its exit sent a heartbeat since the last start."""
        return self.exit is not None and self.exit.heard_at is not None and self.exit.heard_at >= self.started_at


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """Create a container in a free slot, or in a slot whose container is gone."""

    slot: int
    reason: str


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Start a container that was created and not started."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrainExit:
    """Drain a container's exit, so that it can be removed for good."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Remove a container. `for_good`: with its exit and its slot; otherwise it is created again."""

    name: str
    reason: str
    for_good: bool


Action: TypeAlias = CreateContainer | StartContainer | DrainExit | RemoveContainer


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """The actions to execute now, in order, and the memory for the next plan."""

    actions: tuple[Action, ...]
    scale: PoolScale


def plan(
    settings: ContainerSettings | None, slots: Sequence[Slot], scale: PoolScale, now: datetime, ingest_since: datetime
) -> PoolPlan:
    """Plan for one pool; without `settings` all of its containers are removed for good.

    `ingest_since` is the start of the ingest window: silence before it does not count.
    """
    staying = [slot for slot in slots if slot.leaving_since is None]
    leaving = [slot for slot in slots if slot.leaving_since is not None]
    removals = [*_removals(leaving, timedelta(seconds=settings.drain_s if settings else DRAIN_S), now)]
    if settings is None:
        return PoolPlan(
            (*removals, *(_drain_or_remove(slot, "its pool has no containers any more") for slot in staying)),
            PoolScale(),
        )
    loads = [slot.exit.open_requests for slot in staying if slot.serves and slot.exit]
    taken_out = sum(slot.held or _taken_out(slot) for slot in staying)
    scale = scale_to_load(settings, loads, taken_out, scale, now)
    replacements = [*_replacements(staying, now, ingest_since)]
    if any(is_failure for _, is_failure in replacements):
        scale = back_off(scale, now)
    elif _is_stable(staying, now):
        scale = replace(scale, failures=0, retry_at=None)
    surplus = _surplus(staying, len(staying) - scale.wanted)
    going = {slot.name for slot in surplus}
    actions: list[Action] = [*removals, *(_drain_or_remove(slot, f"{scale.wanted} are enough") for slot in surplus)]
    actions += [action for action, _ in replacements if action.name not in going]
    actions += [
        StartContainer(slot.name, "it was not started yet")
        for slot in _with_state(staying, going, ContainerState.CREATED)
    ]
    if scale.retry_at is None or now >= scale.retry_at:
        missing = _with_state(staying, going, ContainerState.MISSING)
        actions += [CreateContainer(slot.number, "its container is gone") for slot in missing]
        actions += _creations(settings, slots, scale.wanted - len(staying))
    if not actions:
        actions += _rolling_update(staying, scale)
    return PoolPlan(tuple(actions), scale)


def _removals(leaving: Sequence[Slot], drain: timedelta, now: datetime) -> Iterator[DrainExit | RemoveContainer]:
    """Yield the removal of leaving containers that are unused or whose drain time is over."""
    for slot in leaving:
        assert slot.leaving_since is not None
        if slot.serves:  # something made it serve again while it leaves
            yield DrainExit(slot.name, "it is to go")
        seen = slot.exit
        reported_since = seen is not None and seen.heard_at is not None and seen.heard_at > slot.leaving_since
        if slot.state is not ContainerState.RUNNING or seen is None:
            yield RemoveContainer(slot.name, "it does not run any more", for_good=True)
        elif reported_since and seen.open_requests == 0:
            yield RemoveContainer(slot.name, "nothing of it is open any more", for_good=True)
        elif now - slot.leaving_since >= drain:
            yield RemoveContainer(slot.name, f"it had {drain.total_seconds():.0f} s to end what it had", for_good=True)


def _replacements(
    staying: Sequence[Slot], now: datetime, ingest_since: datetime
) -> Iterator[tuple[RemoveContainer, bool]]:
    """Yield the containers to replace, each with whether that counts as a failure of the pool."""
    for slot in staying:
        if slot.held:
            continue
        if slot.state is ContainerState.ENDED:
            yield RemoveContainer(slot.name, f"it ended: {slot.status}", for_good=False), True
        elif slot.state is not ContainerState.RUNNING:
            continue
        elif slot.exit is not None and slot.exit.state is ExitState.LOST and slot.exit.state_since > slot.started_at:
            yield RemoveContainer(slot.name, "its exit is lost", for_good=False), True
        elif not slot.has_reported and now - max(slot.started_at, ingest_since) > ENROL_WITHIN:
            within = f"{ENROL_WITHIN.total_seconds():.0f} s"
            yield RemoveContainer(slot.name, f"its exit was not heard of within {within}", for_good=False), True
        elif slot.outdated and not slot.serves and not _taken_out(slot):
            yield RemoveContainer(slot.name, "it is made of something else than its pool says", for_good=False), False


def _taken_out(slot: Slot) -> bool:
    return slot.exit is not None and slot.exit.state in TAKEN_OUT


def _is_stable(staying: Sequence[Slot], now: datetime) -> bool:
    up = [slot for slot in staying if not slot.held]
    return bool(up) and all(slot.serves and now - slot.started_at >= STABLE_AFTER for slot in up)


def _surplus(staying: Sequence[Slot], number: int) -> Sequence[Slot]:
    """Return the containers to remove: first those that do not serve, then the least loaded, then the highest slots."""
    if number <= 0:
        return ()

    def usefulness(slot: Slot) -> tuple[bool, int, int]:
        return slot.serves, slot.exit.open_requests if slot.exit else 0, -slot.number

    return sorted(staying, key=usefulness)[:number]


def _drain_or_remove(slot: Slot, reason: str) -> Action:
    if slot.state is ContainerState.RUNNING and slot.exit is not None:
        return DrainExit(slot.name, reason)
    return RemoveContainer(slot.name, reason, for_good=True)


def _with_state(staying: Sequence[Slot], going: set[str], state: ContainerState) -> list[Slot]:
    return [slot for slot in staying if slot.state is state and not slot.held and slot.name not in going]


def _creations(settings: ContainerSettings, slots: Sequence[Slot], number: int) -> list[Action]:
    """Create containers in the lowest free slots. Draining ones count too, so there are never more than the maximum."""
    taken = {slot.number for slot in slots}
    free = (candidate for candidate in range(1, len(taken) + settings.maximum + 1) if candidate not in taken)
    room = min(number, settings.maximum - len(slots))
    return [CreateContainer(next(free), "there are fewer than wanted") for _ in range(max(0, room))]


def _rolling_update(staying: Sequence[Slot], scale: PoolScale) -> list[Action]:
    """Replace one outdated container at a time, while all others serve."""
    outdated = [slot for slot in staying if slot.outdated and not slot.held and not _taken_out(slot)]
    if not outdated or len(staying) < scale.wanted or not all(slot.serves for slot in staying if not slot.held):
        return []
    return [DrainExit(outdated[0].name, "it is made of something else than its pool says")]
