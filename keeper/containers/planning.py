"""What should be done about the containers of one pool: a pure function of what is wished for and what is seen.

A container is identified by its slot, a number from 1 on; what takes the place of a lost one has the slot, the name and so the
exit of that. One that goes for good is drained first, and its exit is deregistered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from keeper.containers.engine_responses import ContainerStatus
from keeper.containers.scaling import PoolScale, back_off, scale_to_load
from model.exit_states import SERVING, ExitState
from model.stored_containers import DRAIN_S, ContainerSettings

ENROL_WITHIN: Final = timedelta(seconds=120)
"""How long a container may take from its start to its exit's first heartbeat."""
SETTLED_AFTER: Final = timedelta(seconds=60)
"""How long the containers of a pool must have served until its failures are forgotten."""


@dataclass(frozen=True, slots=True)
class ObservedExit:
    """What is known of the exit in a container. `heard_at` is None for one that was never heard of."""

    state: ExitState
    state_since: datetime
    heard_at: datetime | None
    open_requests: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A container that the keeper looks after, whether the engine has it (by now, or still) or not."""

    number: int
    name: str
    life: ContainerStatus
    started_at: datetime
    """When it was started last, or was to be."""
    leaving_since: datetime | None = None
    """Since when it is drained to go for good; None: it stays."""
    held: bool = False
    """Whether an operator stopped it."""
    outdated: bool = False
    """Whether it was made of something else than the pool says now."""
    status: str = ""
    """The engine's words."""
    exit: ObservedExit | None = None

    @property
    def serves(self) -> bool:
        return (
            self.life is ContainerStatus.RUNNING and self.exit is not None and self.exit.state in SERVING and self.heard
        )

    @property
    def heard(self) -> bool:
        """Whether its exit was heard of since it was started."""
        return self.exit is not None and self.exit.heard_at is not None and self.exit.heard_at >= self.started_at


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """Make a container in a free slot, or in one whose container is gone."""

    slot: int
    reason: str


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Start a container that was made and not started."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrainExit:
    """Send no clients to its exit any more, so that it may go for good."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Remove a container. `for_good`: with its exit and its slot; otherwise it is made again."""

    name: str
    reason: str
    for_good: bool


Action: TypeAlias = CreateContainer | StartContainer | DrainExit | RemoveContainer


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What to do now, in order, and what to remember."""

    actions: tuple[Action, ...]
    scale: PoolScale


def plan(
    wish: ContainerSettings | None, slots: Sequence[Slot], scale: PoolScale, now: datetime, heard_since: datetime
) -> PoolPlan:
    """What to do about a pool's containers; without a `wish` all of them go.

    `heard_since` is from when on exits could be heard without a break: silence before it says nothing.
    """
    staying = [slot for slot in slots if slot.leaving_since is None]
    leaving = [slot for slot in slots if slot.leaving_since is not None]
    gone = [*_gone(leaving, timedelta(seconds=wish.drain_s if wish else DRAIN_S), now)]
    if wish is None:
        return PoolPlan(
            (*gone, *(_let_go(slot, "its pool has no containers any more") for slot in staying)), PoolScale()
        )
    loads = [slot.exit.open_requests for slot in staying if slot.serves and slot.exit]
    out = sum(slot.held or _taken_out(slot) for slot in staying)
    scale = scale_to_load(wish, loads, out, scale, now)
    broken = [*_broken(staying, now, heard_since)]
    if any(blame for _, blame in broken):
        scale = back_off(scale, now)
    elif _settled(staying, now):
        scale = replace(scale, failures=0, retry_at=None)
    surplus = _surplus(staying, len(staying) - scale.wanted)
    going = {slot.name for slot in surplus}
    actions: list[Action] = [*gone, *(_let_go(slot, f"{scale.wanted} are enough") for slot in surplus)]
    actions += [action for action, _ in broken if action.name not in going]
    actions += [
        StartContainer(slot.name, "it was not started yet")
        for slot in _in_life(staying, going, ContainerStatus.CREATED)
    ]
    if scale.retry_at is None or now >= scale.retry_at:
        missing = _in_life(staying, going, ContainerStatus.MISSING)
        actions += [CreateContainer(slot.number, "its container is gone") for slot in missing]
        actions += _new(wish, slots, scale.wanted - len(staying))
    if not actions:
        actions += _renewal(staying, scale)
    return PoolPlan(tuple(actions), scale)


def _gone(leaving: Sequence[Slot], drain: timedelta, now: datetime) -> Iterator[DrainExit | RemoveContainer]:
    """Those that nobody uses any more, or that had time enough."""
    for slot in leaving:
        assert slot.leaving_since is not None
        if slot.serves:  # whatever made it serve again, it goes
            yield DrainExit(slot.name, "it is to go")
        seen = slot.exit
        told = seen is not None and seen.heard_at is not None and seen.heard_at > slot.leaving_since
        if slot.life is not ContainerStatus.RUNNING or seen is None:
            yield RemoveContainer(slot.name, "it does not run any more", for_good=True)
        elif told and seen.open_requests == 0:
            yield RemoveContainer(slot.name, "nothing of it is open any more", for_good=True)
        elif now - slot.leaving_since >= drain:
            yield RemoveContainer(slot.name, f"it had {drain.total_seconds():.0f} s to end what it had", for_good=True)


def _broken(staying: Sequence[Slot], now: datetime, heard_since: datetime) -> Iterator[tuple[RemoveContainer, bool]]:
    """Those to replace, and whether that speaks against what they are made of."""
    for slot in staying:
        if slot.held:
            continue
        if slot.life is ContainerStatus.ENDED:
            yield RemoveContainer(slot.name, f"it ended: {slot.status}", for_good=False), True
        elif slot.life is not ContainerStatus.RUNNING:
            continue
        elif slot.exit is not None and slot.exit.state is ExitState.LOST and slot.exit.state_since > slot.started_at:
            yield RemoveContainer(slot.name, "its exit is lost", for_good=False), True
        elif not slot.heard and now - max(slot.started_at, heard_since) > ENROL_WITHIN:
            within = f"{ENROL_WITHIN.total_seconds():.0f} s"
            yield RemoveContainer(slot.name, f"its exit was not heard of within {within}", for_good=False), True
        elif slot.outdated and not slot.serves and not _taken_out(slot):
            yield RemoveContainer(slot.name, "it is made of something else than its pool says", for_good=False), False


def _taken_out(slot: Slot) -> bool:
    return slot.exit is not None and slot.exit.state in (ExitState.DRAINING, ExitState.DISABLED)


def _settled(staying: Sequence[Slot], now: datetime) -> bool:
    up = [slot for slot in staying if not slot.held]
    return bool(up) and all(slot.serves and now - slot.started_at >= SETTLED_AFTER for slot in up)


def _surplus(staying: Sequence[Slot], number: int) -> Sequence[Slot]:
    """The ones to do without: those that serve nobody, then those with least to do, then the last."""
    if number <= 0:
        return ()

    def use(slot: Slot) -> tuple[bool, int, int]:
        return slot.serves, slot.exit.open_requests if slot.exit else 0, -slot.number

    return sorted(staying, key=use)[:number]


def _let_go(slot: Slot, reason: str) -> Action:
    if slot.life is ContainerStatus.RUNNING and slot.exit is not None:
        return DrainExit(slot.name, reason)
    return RemoveContainer(slot.name, reason, for_good=True)


def _in_life(staying: Sequence[Slot], going: set[str], life: ContainerStatus) -> list[Slot]:
    return [slot for slot in staying if slot.life is life and not slot.held and slot.name not in going]


def _new(wish: ContainerSettings, slots: Sequence[Slot], number: int) -> list[Action]:
    """New ones in the lowest free slots; those that drain count too, so that there are never more than the maximum."""
    taken = {slot.number for slot in slots}
    free = (candidate for candidate in range(1, len(taken) + wish.maximum + 1) if candidate not in taken)
    room = min(number, wish.maximum - len(slots))
    return [CreateContainer(next(free), "there are fewer than wanted") for _ in range(max(0, room))]


def _renewal(staying: Sequence[Slot], scale: PoolScale) -> list[Action]:
    """When all is well otherwise, one of those that are outdated goes at a time, and a new one comes."""
    outdated = [slot for slot in staying if slot.outdated and not slot.held and not _taken_out(slot)]
    if not outdated or len(staying) < scale.wanted or not all(slot.serves for slot in staying if not slot.held):
        return []
    return [DrainExit(outdated[0].name, "it is made of something else than its pool says")]
