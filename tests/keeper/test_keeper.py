"""The keeper's looks at a real database, with the clock in the test's hand."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
from sqlalchemy import text, update

from keeper import keeper as module
from model.database import DatabaseUnreachable
from model.exit_states import ExitState
from model.repositories import declared, exit_history, exits, worlds
from model.tables import ExitRow, PoolRow
from model.unit_of_work import write

pytestmark = pytest.mark.postgres


# -- states ------------------------------------------------------------------------------------------------------------


async def test_an_exit_is_healthy_on_its_first_good_heartbeat(house, clock):
    one = await house.declare()
    await house.look()
    assert await house.state(one) is ExitState.REGISTERING
    clock.advance(seconds=1)
    await house.hear(one)
    await house.look()
    row = await house.row(one)
    assert (row.state, row.state_reason, row.state_since) == (ExitState.HEALTHY, "", clock())


async def test_exit_with_a_bad_first_heartbeat_is_not_offered(house, clock):
    one = await house.declare()
    clock.advance(seconds=1)
    await house.hear(one, tunnel_up=False, reason="no handshake yet")
    await house.look()
    row = await house.row(one)
    assert (row.state, row.state_reason) == (ExitState.UNREACHABLE, "its tunnel is down: no handshake yet")


async def test_new_reason_keeps_the_start_of_the_state(house, clock):
    one = await house.declare(state=ExitState.HEALTHY)
    clock.advance(seconds=1)
    await house.hear(one, tunnel_up=False, reason="no handshake for 43 s")
    await house.look()
    out = await house.row(one)

    clock.advance(seconds=15)
    await house.hear(one, tunnel_up=False, reason="no handshake for 58 s")
    await house.look()
    assert (await house.row(one)).state_reason == out.state_reason, "only a number in it is another"

    clock.advance(seconds=15)
    await house.hear(one, tunnel_up=False, reason="the provider refuses the name and password")
    await house.look()
    row = await house.row(one)
    assert row.state_reason == "its tunnel is down: the provider refuses the name and password"
    assert (row.state, row.state_since) == (ExitState.UNREACHABLE, out.state_since)


@pytest.mark.parametrize("said", [{"tunnel_up": False}, {"envoy_up": False}, {"leaving": True}])
async def test_bad_heartbeat_takes_an_exit_out_until_a_newer_good_one(
    house, clock, said
):
    one = await house.declare(state=ExitState.HEALTHY)
    clock.advance(seconds=1)
    await house.hear(one, **said)
    await house.look()
    assert await house.state(one) is ExitState.UNREACHABLE
    await house.pass_time(20)
    assert await house.state(one) is ExitState.UNREACHABLE
    await house.hear(one)
    await house.look()
    assert await house.state(one) is ExitState.HEALTHY


async def test_good_heartbeat_from_before_the_state_does_not_recover_an_exit(house, clock):
    one = await house.declare(state=ExitState.HEALTHY)
    clock.advance(seconds=1)
    before = clock()
    await house.hear(one, at=before - timedelta(milliseconds=100), tunnel_up=False)
    await house.look()
    await house.hear(one, at=before)
    await house.look()
    assert await house.state(one) is ExitState.UNREACHABLE


async def test_silent_exit_is_unreachable_then_lost_then_recovers(house, clock):
    one, other = await house.declare(state=ExitState.HEALTHY), await house.declare("two", state=ExitState.HEALTHY)
    await house.look()
    await house.hear(one)
    heard_at, seen = clock(), {}
    while (silent_for := (clock() - heard_at).total_seconds()) <= 304:
        seen[silent_for] = await house.state(one)
        await house.hear(other)
        await house.pass_time(4)
    assert {state for silent_for, state in seen.items() if silent_for <= 30} == {ExitState.HEALTHY}
    assert {state for silent_for, state in seen.items() if 30 < silent_for <= 300} == {ExitState.UNREACHABLE}
    assert seen[304] is ExitState.LOST
    assert (await house.row(one)).state_reason == "silent for 304 s"
    assert await house.state(other) is ExitState.HEALTHY
    await house.hear(one)
    await house.look()
    assert await house.state(one) is ExitState.HEALTHY


async def test_leaving_exit_is_lost_in_the_end(house):
    one = await house.declare(state=ExitState.HEALTHY)
    await house.look()
    await house.hear(one, leaving=True)
    await house.pass_time(310)
    assert await house.state(one) is ExitState.LOST


async def test_lost_exit_stays_lost_for_a_new_keeper(house):
    """A new keeper counts silence from its own beginning, so by its count the exit is silent for less."""
    one = await house.declare(state=ExitState.HEALTHY)
    await house.look()
    await house.hear(one)
    await house.pass_time(310)
    house.keeper = module.Keeper(house.database, house.clock, house.keeper._thresholds)
    await house.pass_time(60)
    assert await house.state(one) is ExitState.LOST


async def test_exit_is_healthy_only_in_the_country_of_its_pool(house, clock):
    one = await house.declare()
    seen = {"address": "198.51.100.9", "country": "us", "trouble": "", "leak": "", "disagreement": ""}
    told = []
    for observation in (
        {"address": None, "country": None, "trouble": "geo: it cannot be reached"},
        seen,
        seen | {"country": "fr"},
        seen,
        seen | {"leak": "its traffic leaves from the host's own address 192.0.2.1"},
        None,
    ):
        clock.advance(seconds=5)
        await house.hear(one, observation=observation)
        await house.look()
        row = await house.row(one)
        told.append((row.state, row.state_reason))
    assert told == [
        ("verifying", "geo: it cannot be reached"),
        ("healthy", ""),
        ("verifying", "its address 198.51.100.9 is in fr, and its pool is for us"),
        ("healthy", ""),
        ("leaking", "its traffic leaves from the host's own address 192.0.2.1"),
        ("healthy", ""),
    ]


@pytest.mark.parametrize("state", [ExitState.DISABLED, ExitState.DRAINING])
async def test_taken_out_exit_stays_out_whatever_it_reports(state, house, clock):
    one = await house.declare(state=state)
    for said in ({}, {"tunnel_up": False}, {"leaving": True}):
        clock.advance(seconds=1)
        await house.hear(one, **said)
        await house.look()
        assert await house.state(one) is state
    await house.pass_time(310)
    assert await house.state(one) is state


async def test_every_state_change_is_recorded_in_the_history(house, clock):
    one = await house.declare()
    await house.hear(one)
    clock.advance(seconds=1)
    await house.hear(one)
    await house.look()
    clock.advance(seconds=5)
    await house.hear(one, tunnel_up=False, reason="no route")
    await house.look()
    async with house.database.session() as session:
        noted = await exit_history.states_since(session, one, clock() - timedelta(hours=1))
    assert [(each.state, each.reason) for each in noted] == [
        ("registering", ""),
        ("healthy", ""),
        ("unreachable", "its tunnel is down: no route"),
    ]
    assert [each.at for each in noted] == sorted(each.at for each in noted)


async def test_old_history_is_pruned_except_the_present_state(house, clock):
    one = await house.declare()
    clock.advance(seconds=1)
    await house.hear(one)
    await house.look()
    async with house.database.session() as session:
        await exit_history.prune(session, before=clock() + timedelta(days=1))
        assert [each.state for each in await exit_history.states_since(session, one, clock() - timedelta(hours=1))] == [
            "healthy"
        ]


async def test_exit_without_a_heartbeat_stays_registering(house):
    one = await house.declare()
    await house.pass_time(310)
    assert await house.state(one) is ExitState.REGISTERING


async def test_operators_change_between_read_and_write_is_kept(house, database, clock, monkeypatch):
    one = await house.declare(state=ExitState.HEALTHY)
    clock.advance(seconds=1)
    await house.hear(one, tunnel_up=False)
    change_state = exits.change_state

    async def after_the_operator(unit, exit_id, *given):
        async with write(database) as other:
            row = await declared.lock(other.session, ExitRow, exit_id)
            await declared.save_changes(other, row, {"state": ExitState.DISABLED})
        return await change_state(unit, exit_id, *given)

    monkeypatch.setattr(exits, "change_state", after_the_operator)
    await house.look()
    assert await house.state(one) is ExitState.DISABLED


# -- what is no revision -----------------------------------------------------------------------------------------------


async def test_run_without_a_change_makes_no_revision(house, database):
    one = await house.declare(state=ExitState.HEALTHY)
    await house.look()
    before = await worlds.current_revision(database)
    for _ in range(5):
        await house.hear(one)
        await house.pass_time(4)
    assert await worlds.current_revision(database) == before


async def test_exits_that_change_together_are_one_revision(house, database, clock):
    exit_ids = [await house.declare(f"exit-{number}") for number in range(3)]
    before = await worlds.load(database)
    clock.advance(seconds=1)
    for one in exit_ids:
        await house.hear(one)
    await house.look()
    after, changes = await worlds.catch_up(database, before)
    assert after.revision == before.revision + 1
    assert {change.key for change in changes} == set(exit_ids)
    assert {after.exits[one].state for one in exit_ids} == {ExitState.HEALTHY}


# -- what is not the exits' silence ------------------------------------------------------------------------------------


@pytest.fixture
async def healthy(house):
    """An exit that was heard of a moment ago, by a keeper that has looked for a while."""
    one = await house.declare(state=ExitState.HEALTHY)
    await house.pass_time(60)
    await house.hear(one)
    return one


async def test_outage_of_the_api_is_no_silence_of_exits(house, healthy):
    await house.pass_time(320, listening=False)
    assert await house.state(healthy) is ExitState.HEALTHY
    await house.pass_time(28)  # from here on it could have been heard
    assert await house.state(healthy) is ExitState.HEALTHY
    await house.pass_time(8)
    assert await house.state(healthy) is ExitState.UNREACHABLE


async def test_pause_of_the_keeper_is_no_silence_of_exits(house, healthy, clock):
    clock.advance(seconds=600)
    await house.look()
    assert await house.state(healthy) is ExitState.HEALTHY
    await house.pass_time(28)
    assert await house.state(healthy) is ExitState.HEALTHY
    await house.pass_time(8)
    assert await house.state(healthy) is ExitState.UNREACHABLE


async def test_clock_jump_is_no_silence_of_exits(house, healthy, clock):
    for jump_s in (3600, -1800):
        clock.advance(seconds=jump_s)
        await house.look()
        await house.pass_time(20)
        assert await house.state(healthy) is ExitState.HEALTHY


async def test_future_timestamps_do_not_hide_later_heartbeats(house, healthy, clock):
    """Neither that an exit is back, nor that another one complains; and no state begins after it ended."""
    clock.advance(seconds=3600)
    await house.hear(healthy, tunnel_up=False, reason="gone")
    await house.look()
    assert await house.state(healthy) is ExitState.UNREACHABLE
    clock.advance(seconds=-7200)
    await house.look()
    clock.advance(seconds=1)
    await house.hear(healthy)
    await house.look()
    assert await house.state(healthy) is ExitState.HEALTHY
    assert (await house.row(healthy)).state_since == clock()
    async with house.database.session() as session:
        stays = await exit_history.states_since(session, healthy, clock() - timedelta(days=1))
    times = [each.at for each in stays]
    assert times == sorted(times)
    assert [each.state for each in stays][-2:] == ["unreachable", "healthy"]


async def test_outage_of_postgresql_is_no_silence_of_exits(wired, clock, house, healthy):
    database, wire = wired
    house.keeper._database = database
    await wire.cut()
    for _ in range(10):
        clock.advance(seconds=4)
        with pytest.raises(DatabaseUnreachable):
            await house.keeper.run_due()
    clock.advance(seconds=600)
    await wire.mend()
    await house.look()
    await house.pass_time(20)
    assert await house.state(healthy) is ExitState.HEALTHY
    await house.pass_time(16)
    assert await house.state(healthy) is ExitState.UNREACHABLE


# -- names -------------------------------------------------------------------------------------------------------------


async def endpoint(house, exit_id):
    return (await house.row(exit_id)).endpoint


async def test_host_name_is_resolved_to_an_endpoint_in_a_revision(house, database):
    one = await house.declare(address="localhost", endpoint=None)
    before = await worlds.load(database)
    await house.look()
    assert await endpoint(house, one) in ("127.0.0.1", "::1")
    _, changes = await worlds.catch_up(database, before)
    assert {change.key for change in changes} == {one}


class Names:
    """A resolver that answers what the test says, and counts how often it was asked."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def __call__(self, name, *_, **__):
        self.asked.append(name)
        if name not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.addresses[name]]


@pytest.fixture
def names(monkeypatch) -> Names:
    resolver = Names()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return resolver


async def test_host_name_with_a_new_address_is_followed(house, names):
    one = await house.declare(address="exit.example", endpoint=None)
    names.addresses["exit.example"] = ["198.51.100.7"]
    await house.look()
    names.addresses["exit.example"] = ["198.51.100.8"]
    await house.pass_time(8)
    assert await endpoint(house, one) == "198.51.100.8"


async def test_host_name_with_several_addresses_does_not_flap(house, names, database):
    one = await house.declare(address="exit.example", endpoint=None)
    names.addresses["exit.example"] = ["198.51.100.8", "198.51.100.7"]
    await house.look()
    before = await worlds.current_revision(database)
    names.addresses["exit.example"] = ["198.51.100.7", "198.51.100.8"]
    await house.pass_time(8)
    assert await endpoint(house, one) == "198.51.100.7"
    assert await worlds.current_revision(database) == before


async def test_host_name_that_fails_keeps_its_last_endpoint(house, names):
    one = await house.declare(address="exit.example", endpoint="198.51.100.7")
    await house.look()
    assert names.asked == ["exit.example"]
    assert await endpoint(house, one) == "198.51.100.7"


@pytest.mark.parametrize("address", ["a..example", f"{'a' * 64}.example"])
async def test_malformed_host_name_does_not_affect_other_exits(house, address):
    bad = await house.declare("bad", address=address, endpoint=None)
    good = await house.declare("good", address="localhost", endpoint=None)
    await house.look()
    assert await endpoint(house, bad) is None
    assert await endpoint(house, good) is not None


async def test_addresses_are_not_resolved(house, names):
    await house.declare()
    await house.look()
    assert names.asked == []


async def test_host_names_are_resolved_at_their_interval(house, names, clock):
    await house.declare(address="exit.example", endpoint=None)
    for _ in range(11):
        await house.look()
        clock.advance(seconds=1)
    assert len(names.asked) == 3


async def test_address_that_changed_meanwhile_is_not_overwritten(house, database):
    one = await house.declare(address="new.example", endpoint=None)
    async with write(database) as unit:
        await exits.set_endpoint(unit, one, "old.example", "198.51.100.7")
    assert unit.revision is None
    assert await endpoint(house, one) is None


# -- old rows ----------------------------------------------------------------------------------------------------------


async def test_old_changes_are_pruned_except_the_newest(house, database, clock, monkeypatch):
    monkeypatch.setattr(module, "KEEP_CHANGES", 1)
    for number in range(4):
        await house.declare(f"exit-{number}")
    world = await worlds.load(database)

    async def is_remembered(revision):
        return (await worlds.touched_since(database, revision, []))[1] is not None

    await database_changes_are_from(database, clock() - timedelta(hours=2))
    await house.look()
    assert not await is_remembered(world.revision - 2)
    assert await is_remembered(world.revision - 1)
    await house.declare("exit-4")
    await database_changes_are_from(database, clock() - timedelta(hours=2))
    await house.pass_time(290)
    assert await is_remembered(world.revision - 1)
    await house.pass_time(16)
    assert not await is_remembered(world.revision - 1)


async def database_changes_are_from(database, at):
    connection = await database.connect()
    await connection.execute("UPDATE change SET at = $1", at)
    await connection.close()


# -- degraded, falling out, caps, shares -------------------------------------------------------------------------------

GOOD = {"address": "198.51.100.1", "country": "us", "trouble": "", "disagreement": "", "leak": "", "rtt_ms": 20}


async def bear(house, **resilience):
    async with house.database.session() as session:
        await session.execute(update(PoolRow).values(resilience=resilience))


async def balance(house, **balancing):
    async with house.database.session() as session:
        await session.execute(update(PoolRow).values(balancing=balancing))


async def hear_and_look(house, exit_id, **said):
    house.clock.advance(seconds=1)
    await house.hear(exit_id, **said)
    await house.look()
    return await house.row(exit_id)


async def test_disagreeing_sources_degrade_an_exit(house):
    one = await house.declare()
    row = await hear_and_look(house, one, observation={**GOOD, "disagreement": "a sees fr"})
    assert (row.state, row.state_reason) == (ExitState.DEGRADED, "sources disagree: a sees fr")
    assert (await hear_and_look(house, one, observation=GOOD)).state == ExitState.HEALTHY


async def test_slow_exit_is_degraded_until_clearly_faster(house):
    await bear(house, degraded_above_ms=100)
    one = await house.declare()
    row = await hear_and_look(house, one, observation={**GOOD, "rtt_ms": 101})
    assert (row.state, row.state_reason) == (
        ExitState.DEGRADED,
        "its round trips take 101 ms, and its pool calls more than 100 ms slow",
    )
    assert (await hear_and_look(house, one, observation={**GOOD, "rtt_ms": 81})).state == ExitState.DEGRADED
    assert (await hear_and_look(house, one, observation={**GOOD, "rtt_ms": 80})).state == ExitState.HEALTHY


async def test_full_exit_is_degraded_until_clearly_below_capacity(house):
    one = await house.declare(capacity=10)
    row = await hear_and_look(house, one, open_requests=10)
    assert (row.state, row.state_reason) == (ExitState.DEGRADED, "it carries 10 requests, and its capacity is 10")
    assert (await hear_and_look(house, one, open_requests=8)).state == ExitState.DEGRADED
    assert (await hear_and_look(house, one, open_requests=7)).state == ExitState.HEALTHY


async def test_degraded_exit_that_leaks_is_taken_out_at_once(house):
    one = await house.declare(state=ExitState.DEGRADED)
    await house.hear(one, observation={**GOOD, "leak": "it leaks"})
    await house.look()
    assert await house.state(one) == ExitState.LEAKING


async def fall(house, exit_id):
    """It goes down, and is up a second later."""
    await hear_and_look(house, exit_id, tunnel_up=False)
    return await hear_and_look(house, exit_id)


async def test_flapping_exit_is_held_down(house):
    await bear(house, falls_borne=2, hold_down_s=30)
    one = await house.declare()
    await hear_and_look(house, one)
    for _ in range(2):
        assert (await fall(house, one)).state == ExitState.HEALTHY
    row = await fall(house, one)
    assert (row.state, row.state_reason) == (
        ExitState.VERIFYING,
        "it fell out 3 times within 600 s: it has to be up for 30 s",
    )
    await house.pass_time(28)
    assert (await hear_and_look(house, one)).state == ExitState.VERIFYING
    assert (await hear_and_look(house, one)).state == ExitState.HEALTHY


async def test_fall_during_hold_down_restarts_it(house):
    await bear(house, falls_borne=0, hold_down_s=30)
    one = await house.declare()
    await hear_and_look(house, one)
    await fall(house, one)
    await house.pass_time(20)
    assert (await fall(house, one)).state == ExitState.VERIFYING
    await house.pass_time(20)
    assert (await hear_and_look(house, one)).state == ExitState.VERIFYING


async def test_old_falls_do_not_count(house):
    await bear(house, falls_borne=0, falls_window_s=60)
    one = await house.declare()
    await hear_and_look(house, one)
    await hear_and_look(house, one, tunnel_up=False)
    house.clock.advance(seconds=61)
    assert (await hear_and_look(house, one)).state == ExitState.HEALTHY


async def test_taking_an_exit_out_is_no_fall(house):
    await bear(house, falls_borne=0)
    one = await house.declare()
    await hear_and_look(house, one)
    async with write(house.database) as unit:
        for old, new in ((ExitState.HEALTHY, ExitState.DRAINING), (ExitState.DRAINING, ExitState.REGISTERING)):
            await exits.change_state(unit, one, old, new, "", house.clock())
    assert (await hear_and_look(house, one)).state == ExitState.HEALTHY


async def test_exit_at_its_monthly_cap_is_drained_until_the_next_month(house):
    one = await house.declare(monthly_cap_gb=2)
    await hear_and_look(house, one, carried_bytes=1_500_000_000)
    assert await house.state(one) == ExitState.HEALTHY
    await hear_and_look(house, one, carried_bytes=300_000_000)  # another Envoy
    await house.pass_time(8)
    assert await house.state(one) == ExitState.HEALTHY
    await hear_and_look(house, one, carried_bytes=600_000_000)
    await house.pass_time(8)
    row = await house.row(one)
    assert (row.state, row.state_reason) == (ExitState.DRAINING, f"it has carried its 2 GB of {house.clock():%Y-%m}")
    house.clock.advance(seconds=32 * 86_400)
    await house.look()
    await hear_and_look(house, one, carried_bytes=600_000_000)
    await house.pass_time(8)
    await hear_and_look(house, one, carried_bytes=600_000_000)
    assert await house.state(one) == ExitState.HEALTHY


async def test_raised_cap_lets_an_exit_serve_again(house):
    one = await house.declare(monthly_cap_gb=1)
    await hear_and_look(house, one, carried_bytes=1_000_000_000)
    await house.pass_time(8)
    assert await house.state(one) == ExitState.DRAINING
    async with house.database.session() as session:
        await session.execute(update(ExitRow).values(monthly_cap_gb=3))
    await house.pass_time(8)
    assert (await hear_and_look(house, one, carried_bytes=1_000_000_000)).state == ExitState.HEALTHY


async def revision(house):
    async with house.database.session() as session:
        return (await session.execute(text("SELECT value FROM revision"))).scalar_one()


@pytest.mark.slow
async def test_fleet_is_weighed_once_a_minute_in_one_revision(house):
    await balance(house, weigh_by="latency")
    exit_ids = [await house.declare(str(number)) for number in range(4)]

    async def spend(seconds, *rtts):
        for _ in range(seconds // 20):
            for exit_id, rtt in zip(exit_ids, rtts, strict=True):
                await house.hear(exit_id, observation={**GOOD, "rtt_ms": rtt})
            await house.pass_time(20)
        return [(await house.row(each)).share for each in exit_ids]

    assert await spend(80, 20, 20, 20, 20) == [16, 16, 16, 16]
    before = await revision(house)
    assert await spend(600, 20, 160, 160, 160) == [16, 2, 2, 2]
    assert 1 <= await revision(house) - before <= 10


async def test_pool_without_weigh_by_resets_its_shares(house):
    await balance(house, weigh_by="cost")
    one = await house.declare(cost=3.0)
    await hear_and_look(house, one)
    await house.pass_time(64)
    assert (await house.row(one)).share == 16
    await balance(house)
    await house.pass_time(64)
    assert (await house.row(one)).share == 1
