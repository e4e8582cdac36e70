"""The plan for a pool's containers: by table, and over time against an engine that is a dictionary."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.containers.engine_responses import ContainerState
from keeper.containers.planning import (
    ENROL_WITHIN,
    CreateContainer,
    DrainExit,
    ObservedExit,
    RemoveContainer,
    Slot,
    StartContainer,
    plan,
)
from keeper.containers.scaling import BACKOFF_MAX, BUSY_FOR, IDLE_FOR, PoolScale, back_off
from model.exit_states import ExitState
from model.stored_containers import ContainerSettings
from tests.scale import scaled

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
SETTINGS = ContainerSettings(minimum=2, maximum=4, image="exit:1", requests_per_exit=10)
SERVES = ObservedExit(ExitState.HEALTHY, NOW - timedelta(minutes=50), NOW - timedelta(seconds=3), 0)


def slot(number: int, **fields) -> Slot:
    """Return a running container that serves without load; `fields` override its fields."""
    given = {"state": ContainerState.RUNNING, "started_at": LONG_AGO, "exit": SERVES}
    return Slot(number, f"us-{number}", **(given | fields))


def decide(
    *slots: Slot, settings: ContainerSettings | None = SETTINGS, scale: PoolScale | None = None, now: datetime = NOW
):
    return plan(settings, slots, PoolScale(wanted=2) if scale is None else scale, now, LONG_AGO)


def actions(*slots: Slot, **given):
    return decide(*slots, **given).actions


def brief(found):
    return [(type(action).__name__, getattr(action, "slot", None) or action.name) for action in found]


# -- by table ----------------------------------------------------------------------------------------------------------


def test_new_pool_gets_its_minimum():
    assert brief(actions(scale=PoolScale())) == [("CreateContainer", 1), ("CreateContainer", 2)]


def test_healthy_pool_needs_no_action():
    assert actions(slot(1), slot(2)) == ()


def test_ended_container_is_replaced_with_the_reason():
    assert actions(slot(1), slot(2, state=ContainerState.ENDED, status="Exited (137)")) == (
        RemoveContainer("us-2", "it ended: Exited (137)", for_good=False),
    )


def test_missing_container_is_created_again_in_its_slot():
    assert actions(slot(1), slot(2, state=ContainerState.MISSING)) == (CreateContainer(2, "its container is gone"),)


def test_created_container_is_started():
    assert actions(slot(1), slot(2, state=ContainerState.CREATED, exit=None)) == (
        StartContainer("us-2", "it was not started yet"),
    )


def test_container_whose_exit_was_lost_since_its_start_is_replaced():
    lost = replace(SERVES, state=ExitState.LOST, state_since=NOW)
    assert actions(slot(1), slot(2, exit=lost)) == (RemoveContainer("us-2", "its exit is lost", for_good=False),)


def test_container_whose_exit_was_lost_before_its_start_may_enrol():
    lost = ObservedExit(ExitState.LOST, NOW - timedelta(seconds=30), NOW - timedelta(minutes=6), 0)
    assert actions(slot(1), slot(2, exit=lost, started_at=NOW - timedelta(seconds=10))) == ()


@pytest.mark.parametrize("state", [ExitState.UNREACHABLE, ExitState.VERIFYING, ExitState.LEAKING])
def test_an_exit_that_does_not_serve_is_not_lost_yet(state):
    assert actions(slot(1), slot(2, exit=replace(SERVES, state=state))) == ()


def test_container_that_never_enrols_is_replaced_after_its_time():
    late, early = NOW - ENROL_WITHIN - timedelta(seconds=1), NOW - ENROL_WITHIN + timedelta(seconds=1)
    (found,) = actions(slot(1), slot(2, exit=None, started_at=late))
    assert found == RemoveContainer("us-2", "its exit was not heard of within 120 s", for_good=False)
    assert actions(slot(1), slot(2, exit=None, started_at=early)) == ()


def test_silence_outside_the_ingest_window_does_not_count():
    silent = slot(2, exit=None, started_at=LONG_AGO)
    assert plan(SETTINGS, [slot(1), silent], PoolScale(wanted=2), NOW, NOW - timedelta(seconds=20)).actions == ()


@pytest.mark.parametrize("state", [ContainerState.ENDED, ContainerState.MISSING, ContainerState.RUNNING])
def test_stopped_container_is_not_replaced(state):
    assert actions(slot(1), slot(2, state=state, held=True, exit=None)) == ()


@pytest.mark.parametrize("state", [ExitState.DRAINING, ExitState.DISABLED])
def test_container_of_a_taken_out_exit_is_not_replaced(state):
    assert actions(slot(1), slot(2, exit=replace(SERVES, state=state))) == ()


def test_removed_pool_drains_running_containers_and_removes_others():
    found = actions(slot(1), slot(2, exit=None), slot(3, state=ContainerState.ENDED), settings=None)
    assert brief(found) == [("DrainExit", "us-1"), ("RemoveContainer", "us-2"), ("RemoveContainer", "us-3")]
    assert all(action.for_good for action in found if isinstance(action, RemoveContainer))


def leaving(seconds_ago: float, **fields):
    drained = replace(SERVES, state=ExitState.DRAINING)
    since = NOW - timedelta(seconds=seconds_ago)
    return slot(3, leaving_since=since, exit=replace(drained, **fields))


@pytest.mark.parametrize(
    ("one", "goes"),
    [
        (leaving(30, open_requests=0), True),
        (leaving(30, open_requests=5), False),
        (leaving(60, open_requests=5), True),
        (leaving(2, open_requests=0), False),  # its last heartbeat is from before the drain
        (slot(3, leaving_since=NOW, state=ContainerState.ENDED), True),
        (slot(3, leaving_since=NOW, exit=None), True),
    ],
)
def test_draining_container_is_removed_when_unused_or_out_of_time(one, goes):
    found = actions(slot(1), slot(2), one)
    assert brief(found) == ([("RemoveContainer", "us-3")] if goes else [])
    assert all(action.for_good for action in found)


def test_leaving_container_that_serves_again_is_drained_again():
    assert brief(actions(slot(1), slot(2), slot(3, leaving_since=NOW))) == [("DrainExit", "us-3")]


def test_draining_container_counts_towards_the_maximum():
    settings = replace(SETTINGS, minimum=3, maximum=3)
    found = actions(slot(1), slot(2), leaving(1, open_requests=9), settings=settings, scale=PoolScale(wanted=3))
    assert found == ()


def test_outdated_containers_are_replaced_one_at_a_time():
    old = [slot(number, outdated=True) for number in (1, 2)]
    assert brief(actions(*old)) == [("DrainExit", "us-1")]
    assert actions(slot(1, leaving_since=NOW, exit=replace(SERVES, state=ExitState.DRAINING, open_requests=1)), old[1])[
        :1
    ] == (CreateContainer(3, "there are fewer than wanted"),)
    coming = slot(3, exit=None, started_at=NOW)
    assert actions(old[1], coming) == ()


def test_outdated_container_that_does_not_serve_is_replaced_at_once():
    down = replace(SERVES, state=ExitState.UNREACHABLE)
    found = decide(slot(1), slot(2, outdated=True, exit=down))
    assert (brief(found.actions), found.scale.failures) == ([("RemoveContainer", "us-2")], 0)


def test_surplus_removes_idle_containers_first():
    settings, busy = replace(SETTINGS, minimum=1), replace(SERVES, open_requests=7)
    three = slot(1, exit=replace(SERVES, state=ExitState.UNREACHABLE)), slot(2), slot(3, exit=busy)
    assert brief(actions(*three, settings=settings, scale=PoolScale(wanted=2))) == [("DrainExit", "us-1")]
    assert brief(actions(*three[1:], settings=settings, scale=PoolScale(wanted=1))) == [("DrainExit", "us-2")]
    assert brief(actions(slot(1), slot(2), settings=settings, scale=PoolScale(wanted=1))) == [("DrainExit", "us-2")]


# -- load --------------------------------------------------------------------------------------------------------------


def with_load(*loads: int):
    return [slot(number + 1, exit=replace(SERVES, open_requests=load)) for number, load in enumerate(loads)]


def over(seconds: int, *loads: int, scale: PoolScale, step: int = 2):
    """Return the scale after a time of constant load."""
    for second in range(0, seconds + 1, step):
        now = NOW + timedelta(seconds=second)
        fresh = [replace(each, exit=replace(each.exit, heard_at=now)) for each in with_load(*loads)]
        scale = decide(*fresh, scale=scale, now=now).scale
    return scale


def test_lasting_load_adds_one_container():
    assert over(int(BUSY_FOR.total_seconds()) - 2, 15, 12, scale=PoolScale(wanted=2)).wanted == 2
    assert over(int(BUSY_FOR.total_seconds()), 15, 12, scale=PoolScale(wanted=2)).wanted == 3


def test_short_load_adds_no_container():
    scale = over(20, 15, 12, scale=PoolScale(wanted=2))
    scale = over(2, 3, 3, scale=scale)
    assert over(20, 15, 12, scale=scale).wanted == 2


def test_load_never_exceeds_the_maximum():
    assert all(over(seconds, 99, 99, 99, 99, scale=PoolScale(wanted=4)).wanted == 4 for seconds in range(0, 80, 2))


def test_lasting_idleness_removes_one_but_keeps_the_minimum():
    assert over(int(IDLE_FOR.total_seconds()) - 2, 1, 1, 1, scale=PoolScale(wanted=3)).wanted == 3
    assert over(int(IDLE_FOR.total_seconds()), 1, 1, 1, scale=PoolScale(wanted=3)).wanted == 2
    assert all(over(seconds, 0, 0, scale=PoolScale(wanted=2)).wanted == 2 for seconds in range(290, 320, 2))


def test_scaling_down_needs_spare_capacity():
    # 3 exits share 10 requests: 2 exits would have 5 each, half of their limit
    assert over(600, 4, 3, 3, scale=PoolScale(wanted=3)).wanted == 3


def test_load_is_not_judged_while_a_container_starts():
    coming = slot(3, exit=None, started_at=NOW)
    scale = PoolScale(wanted=3, busy_since=NOW - BUSY_FOR)
    assert decide(*with_load(20, 20), coming, scale=scale).scale.wanted == 3


def test_pool_without_a_request_limit_has_its_minimum():
    found = decide(*with_load(99, 99), settings=replace(SETTINGS, requests_per_exit=None), scale=PoolScale(wanted=3))
    assert found.scale.wanted == 2


# -- failures ----------------------------------------------------------------------------------------------------------


def test_pool_with_dying_containers_doubles_its_backoff():
    scale, pauses = PoolScale(), []
    for _ in range(9):
        scale = back_off(scale, NOW)
        pauses.append((scale.retry_at - NOW).total_seconds())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_no_container_is_created_during_the_backoff():
    scale = PoolScale(wanted=2, failures=3, retry_at=NOW + timedelta(seconds=4))
    assert actions(slot(1), slot(2, state=ContainerState.MISSING), scale=scale) == ()
    assert brief(actions(slot(1), slot(2, state=ContainerState.MISSING), scale=replace(scale, retry_at=NOW))) == [
        ("CreateContainer", 2)
    ]


def test_failures_are_reset_when_all_have_served_for_a_while():
    scale = PoolScale(wanted=2, failures=3, retry_at=NOW)
    young = slot(2, started_at=NOW - timedelta(seconds=10))
    assert decide(slot(1), young, scale=scale).scale.failures == 3
    assert decide(slot(1), slot(2), scale=scale).scale.failures == 0


# -- over time ---------------------------------------------------------------------------------------------------------


@dataclass
class SimulatedPool:
    """A simulated engine with exits. Containers serve 10 s after their start, unless they are `broken`."""

    settings: ContainerSettings
    now: datetime = NOW
    scale: PoolScale = field(default_factory=PoolScale)
    slots: dict[int, Slot] = field(default_factory=dict)
    load: int = 0
    broken: bool = False
    most: int = 0

    def step(self, seconds: float = 2):
        self.now += timedelta(seconds=seconds)
        for number, each in self.slots.items():
            self.slots[number] = self._after_step(each)
        found = plan(self.settings, [*self.slots.values()], self.scale, self.now, LONG_AGO)
        self.scale = found.scale
        for action in found.actions:
            self._do(action)
        running = [each for each in self.slots.values() if each.state is not ContainerState.MISSING]
        self.most = max(self.most, len(running))
        return found.actions

    def _after_step(self, each: Slot) -> Slot:
        if each.state is not ContainerState.RUNNING:
            return each
        if self.broken and each.exit is None:
            return replace(each, state=ContainerState.ENDED, status="Exited (1)")
        if self.now - each.started_at < timedelta(seconds=10):
            return each
        old = each.exit
        state = old.state if old and old.state is ExitState.DRAINING else ExitState.HEALTHY
        serving = [one for one in self.slots.values() if one.serves]
        share = self.load // len(serving) if serving and state is ExitState.HEALTHY else 0
        return replace(each, exit=ObservedExit(state, self.now, self.now, share))

    def _do(self, action):
        by_name = {each.name: number for number, each in self.slots.items()}
        match action:
            case CreateContainer(slot=number):
                self.slots[number] = Slot(number, f"us-{number}", ContainerState.RUNNING, self.now)
            case StartContainer(name=name):
                number = by_name[name]
                self.slots[number] = replace(self.slots[number], state=ContainerState.RUNNING, started_at=self.now)
            case DrainExit(name=name):
                old = self.slots[by_name[name]]
                gone = old.exit and replace(old.exit, state=ExitState.DRAINING)
                self.slots[by_name[name]] = replace(old, leaving_since=old.leaving_since or self.now, exit=gone)
            case RemoveContainer(name=name, for_good=True):
                del self.slots[by_name[name]]
            case RemoveContainer(name=name):
                number = by_name[name]
                self.slots[number] = replace(self.slots[number], state=ContainerState.MISSING, exit=None)

    def serving(self) -> int:
        return sum(each.serves for each in self.slots.values())


EVENTS = st.one_of(
    st.tuples(st.just("kill"), st.integers(1, 6)),
    st.tuples(st.just("delete"), st.integers(1, 6)),
    st.tuples(st.just("lose"), st.integers(1, 6)),
    st.tuples(st.just("crash between making and starting"), st.integers(1, 6)),
    st.tuples(st.just("load"), st.integers(0, 200)),
    st.tuples(st.just("broken"), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.integers(1, 400)),
)


def apply_event(pool: SimulatedPool, event: str, value: int):
    each = pool.slots.get(value)
    match event:
        case "load":
            pool.load = value
        case "broken":
            pool.broken = bool(value)
        case "wait":
            pool.step(value)
        case "kill" if each:
            pool.slots[value] = replace(each, state=ContainerState.ENDED, status="Exited (137)")
        case "delete" if each:
            pool.slots[value] = replace(each, state=ContainerState.MISSING)
        case "lose" if each and each.exit:
            pool.slots[value] = replace(each, exit=replace(each.exit, state=ExitState.LOST, state_since=pool.now))
        case "crash between making and starting" if each and each.state is ContainerState.MISSING:
            pool.slots[value] = replace(each, state=ContainerState.CREATED)


@settings(max_examples=scaled(50), deadline=None)
@given(
    st.lists(EVENTS, max_size=40),
    st.integers(1, 3),
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(1, 50)),
)
def test_random_events_never_exceed_the_maximum_and_recover(events, minimum, more, requests):
    settings = ContainerSettings(minimum=minimum, maximum=minimum + more, image="x", requests_per_exit=requests)
    pool = SimulatedPool(settings)
    for event, value in events:
        apply_event(pool, event, value)
        pool.step()
        assert settings.minimum <= pool.scale.wanted <= settings.maximum
    assert pool.most <= settings.maximum
    pool.broken, pool.load = False, 0
    for _ in range(int((BACKOFF_MAX.total_seconds() + settings.drain_s + 60) / 2)):
        pool.step()
    assert pool.serving() >= settings.minimum
    for _ in range(more * int(IDLE_FOR.total_seconds()) + 60):
        pool.step()
    assert pool.most <= settings.maximum
    assert pool.serving() == pool.scale.wanted
    assert all(pool.step() == () for _ in range(30)), "an idle fleet is left alone"


def test_pool_with_dying_containers_creates_few_of_them():
    pool = SimulatedPool(replace(SETTINGS, minimum=1), broken=True)
    made = sum(isinstance(action, CreateContainer) for _ in range(900) for action in pool.step(1))
    assert made <= 6 + 900 / 60 + 1
