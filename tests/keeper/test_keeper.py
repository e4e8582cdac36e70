"""The keeper with a real database and a fake clock."""

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


async def test_an_exit_is_healthy_on_its_first_good_heartbeat(harness, clock):
    one = await harness.declare()
    await harness.run_keeper()
    assert await harness.state(one) is ExitState.REGISTERING
    clock.advance(seconds=1)
    await harness.send_heartbeat(one)
    await harness.run_keeper()
    row = await harness.row(one)
    assert (row.state, row.state_reason, row.state_since) == (ExitState.HEALTHY, "", clock())


async def test_exit_with_a_bad_first_heartbeat_is_not_offered(harness, clock):
    one = await harness.declare()
    clock.advance(seconds=1)
    await harness.send_heartbeat(one, tunnel_up=False, reason="no handshake yet")
    await harness.run_keeper()
    row = await harness.row(one)
    assert (row.state, row.state_reason) == (ExitState.UNREACHABLE, "its tunnel is down: no handshake yet")


async def test_new_reason_keeps_the_start_of_the_state(harness, clock):
    one = await harness.declare(state=ExitState.HEALTHY)
    clock.advance(seconds=1)
    await harness.send_heartbeat(one, tunnel_up=False, reason="no handshake for 43 s")
    await harness.run_keeper()
    out = await harness.row(one)

    clock.advance(seconds=15)
    await harness.send_heartbeat(one, tunnel_up=False, reason="no handshake for 58 s")
    await harness.run_keeper()
    assert (await harness.row(one)).state_reason == out.state_reason, "only a number in it is another"

    clock.advance(seconds=15)
    await harness.send_heartbeat(one, tunnel_up=False, reason="the provider refuses the name and password")
    await harness.run_keeper()
    row = await harness.row(one)
    assert row.state_reason == "its tunnel is down: the provider refuses the name and password"
    assert (row.state, row.state_since) == (ExitState.UNREACHABLE, out.state_since)


@pytest.mark.parametrize("said", [{"tunnel_up": False}, {"envoy_up": False}, {"stopping": True}])
async def test_bad_heartbeat_takes_an_exit_out_until_a_newer_good_one(harness, clock, said):
    one = await harness.declare(state=ExitState.HEALTHY)
    clock.advance(seconds=1)
    await harness.send_heartbeat(one, **said)
    await harness.run_keeper()
    assert await harness.state(one) is ExitState.UNREACHABLE
    await harness.pass_time(20)
    assert await harness.state(one) is ExitState.UNREACHABLE
    await harness.send_heartbeat(one)
    await harness.run_keeper()
    assert await harness.state(one) is ExitState.HEALTHY


async def test_good_heartbeat_from_before_the_state_does_not_recover_an_exit(harness, clock):
    one = await harness.declare(state=ExitState.HEALTHY)
    clock.advance(seconds=1)
    before = clock()
    await harness.send_heartbeat(one, at=before - timedelta(milliseconds=100), tunnel_up=False)
    await harness.run_keeper()
    await harness.send_heartbeat(one, at=before)
    await harness.run_keeper()
    assert await harness.state(one) is ExitState.UNREACHABLE


async def test_silent_exit_is_unreachable_then_lost_then_recovers(harness, clock):
    one, other = await harness.declare(state=ExitState.HEALTHY), await harness.declare("two", state=ExitState.HEALTHY)
    await harness.run_keeper()
    await harness.send_heartbeat(one)
    heard_at, seen = clock(), {}
    while (silent_for := (clock() - heard_at).total_seconds()) <= 304:
        seen[silent_for] = await harness.state(one)
        await harness.send_heartbeat(other)
        await harness.pass_time(4)
    assert {state for silent_for, state in seen.items() if silent_for <= 30} == {ExitState.HEALTHY}
    assert {state for silent_for, state in seen.items() if 30 < silent_for <= 300} == {ExitState.UNREACHABLE}
    assert seen[304] is ExitState.LOST
    assert (await harness.row(one)).state_reason == "silent for 304 s"
    assert await harness.state(other) is ExitState.HEALTHY
    await harness.send_heartbeat(one)
    await harness.run_keeper()
    assert await harness.state(one) is ExitState.HEALTHY


async def test_leaving_exit_is_lost_in_the_end(harness):
    one = await harness.declare(state=ExitState.HEALTHY)
    await harness.run_keeper()
    await harness.send_heartbeat(one, stopping=True)
    await harness.pass_time(310)
    assert await harness.state(one) is ExitState.LOST


async def test_lost_exit_stays_lost_for_a_new_keeper(harness):
    """The ingest window of a new keeper begins with it, so the exit counts as silent for less time."""
    one = await harness.declare(state=ExitState.HEALTHY)
    await harness.run_keeper()
    await harness.send_heartbeat(one)
    await harness.pass_time(310)
    harness.keeper = module.Keeper(harness.database, harness.clock, harness.keeper._thresholds)
    await harness.pass_time(60)
    assert await harness.state(one) is ExitState.LOST


async def test_exit_is_healthy_only_in_the_country_of_its_pool(harness, clock):
    one = await harness.declare()
    seen = {"address": "198.51.100.9", "country": "us", "error": "", "leak": "", "conflict": ""}
    told = []
    for observation in (
        {"address": None, "country": None, "error": "geo: it cannot be reached"},
        seen,
        seen | {"country": "fr"},
        seen,
        seen | {"leak": "its traffic leaves from the host's own address 192.0.2.1"},
        None,
    ):
        clock.advance(seconds=5)
        await harness.send_heartbeat(one, observation=observation)
        await harness.run_keeper()
        row = await harness.row(one)
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
async def test_taken_out_exit_stays_out_whatever_it_reports(state, harness, clock):
    one = await harness.declare(state=state)
    for said in ({}, {"tunnel_up": False}, {"stopping": True}):
        clock.advance(seconds=1)
        await harness.send_heartbeat(one, **said)
        await harness.run_keeper()
        assert await harness.state(one) is state
    await harness.pass_time(310)
    assert await harness.state(one) is state


async def test_every_state_change_is_recorded_in_the_history(harness, clock):
    one = await harness.declare()
    await harness.send_heartbeat(one)
    clock.advance(seconds=1)
    await harness.send_heartbeat(one)
    await harness.run_keeper()
    clock.advance(seconds=5)
    await harness.send_heartbeat(one, tunnel_up=False, reason="no route")
    await harness.run_keeper()
    async with harness.database.session() as session:
        noted = await exit_history.states_since(session, one, clock() - timedelta(hours=1))
    assert [(each.state, each.reason) for each in noted] == [
        ("registering", ""),
        ("healthy", ""),
        ("unreachable", "its tunnel is down: no route"),
    ]
    assert [each.at for each in noted] == sorted(each.at for each in noted)


async def test_old_history_is_pruned_except_the_present_state(harness, clock):
    one = await harness.declare()
    clock.advance(seconds=1)
    await harness.send_heartbeat(one)
    await harness.run_keeper()
    async with harness.database.session() as session:
        await exit_history.prune(session, before=clock() + timedelta(days=1))
        assert [each.state for each in await exit_history.states_since(session, one, clock() - timedelta(hours=1))] == [
            "healthy"
        ]


async def test_exit_without_a_heartbeat_stays_registering(harness):
    one = await harness.declare()
    await harness.pass_time(310)
    assert await harness.state(one) is ExitState.REGISTERING


async def test_operators_change_between_read_and_write_is_kept(harness, database, clock, monkeypatch):
    one = await harness.declare(state=ExitState.HEALTHY)
    clock.advance(seconds=1)
    await harness.send_heartbeat(one, tunnel_up=False)
    change_state = exits.change_state

    async def after_the_operator(unit, exit_id, *given):
        async with write(database) as other:
            row = await declared.lock(other.session, ExitRow, exit_id)
            await declared.save_changes(other, row, {"state": ExitState.DISABLED})
        return await change_state(unit, exit_id, *given)

    monkeypatch.setattr(exits, "change_state", after_the_operator)
    await harness.run_keeper()
    assert await harness.state(one) is ExitState.DISABLED


# -- what is no revision -----------------------------------------------------------------------------------------------


async def test_run_without_a_change_makes_no_revision(harness, database):
    one = await harness.declare(state=ExitState.HEALTHY)
    await harness.run_keeper()
    before = await worlds.current_revision(database)
    for _ in range(5):
        await harness.send_heartbeat(one)
        await harness.pass_time(4)
    assert await worlds.current_revision(database) == before


async def test_exits_that_change_together_are_one_revision(harness, database, clock):
    exit_ids = [await harness.declare(f"exit-{number}") for number in range(3)]
    before = await worlds.load(database)
    clock.advance(seconds=1)
    for one in exit_ids:
        await harness.send_heartbeat(one)
    await harness.run_keeper()
    after, changes = await worlds.catch_up(database, before)
    assert after.revision == before.revision + 1
    assert {change.key for change in changes} == set(exit_ids)
    assert {after.exits[one].state for one in exit_ids} == {ExitState.HEALTHY}


# -- what is not the exits' silence ------------------------------------------------------------------------------------


@pytest.fixture
async def healthy(harness):
    """Return a healthy exit with a fresh heartbeat, after the keeper has run for a while."""
    one = await harness.declare(state=ExitState.HEALTHY)
    await harness.pass_time(60)
    await harness.send_heartbeat(one)
    return one


async def test_outage_of_the_api_is_no_silence_of_exits(harness, healthy):
    await harness.pass_time(320, api_up=False)
    assert await harness.state(healthy) is ExitState.HEALTHY
    await harness.pass_time(28)  # the window begins here
    assert await harness.state(healthy) is ExitState.HEALTHY
    await harness.pass_time(8)
    assert await harness.state(healthy) is ExitState.UNREACHABLE


async def test_pause_of_the_keeper_is_no_silence_of_exits(harness, healthy, clock):
    clock.advance(seconds=600)
    await harness.run_keeper()
    assert await harness.state(healthy) is ExitState.HEALTHY
    await harness.pass_time(28)
    assert await harness.state(healthy) is ExitState.HEALTHY
    await harness.pass_time(8)
    assert await harness.state(healthy) is ExitState.UNREACHABLE


async def test_clock_jump_is_no_silence_of_exits(harness, healthy, clock):
    for jump_s in (3600, -1800):
        clock.advance(seconds=jump_s)
        await harness.run_keeper()
        await harness.pass_time(20)
        assert await harness.state(healthy) is ExitState.HEALTHY


async def test_future_timestamps_do_not_hide_later_heartbeats(harness, healthy, clock):
    """An exit recovers, another one fails, and no state begins after its end."""
    clock.advance(seconds=3600)
    await harness.send_heartbeat(healthy, tunnel_up=False, reason="gone")
    await harness.run_keeper()
    assert await harness.state(healthy) is ExitState.UNREACHABLE
    clock.advance(seconds=-7200)
    await harness.run_keeper()
    clock.advance(seconds=1)
    await harness.send_heartbeat(healthy)
    await harness.run_keeper()
    assert await harness.state(healthy) is ExitState.HEALTHY
    assert (await harness.row(healthy)).state_since == clock()
    async with harness.database.session() as session:
        stays = await exit_history.states_since(session, healthy, clock() - timedelta(days=1))
    times = [each.at for each in stays]
    assert times == sorted(times)
    assert [each.state for each in stays][-2:] == ["unreachable", "healthy"]


async def test_outage_of_postgresql_is_no_silence_of_exits(linked_database, clock, harness, healthy):
    database, link = linked_database
    harness.keeper._database = database
    await link.cut()
    for _ in range(10):
        clock.advance(seconds=4)
        with pytest.raises(DatabaseUnreachable):
            await harness.keeper.run_due()
    clock.advance(seconds=600)
    await link.restore()
    await harness.run_keeper()
    await harness.pass_time(20)
    assert await harness.state(healthy) is ExitState.HEALTHY
    await harness.pass_time(16)
    assert await harness.state(healthy) is ExitState.UNREACHABLE


# -- names -------------------------------------------------------------------------------------------------------------


async def endpoint(harness, exit_id):
    return (await harness.row(exit_id)).endpoint


async def test_host_name_is_resolved_to_an_endpoint_in_a_revision(harness, database):
    one = await harness.declare(address="localhost", endpoint=None)
    before = await worlds.load(database)
    await harness.run_keeper()
    assert await endpoint(harness, one) in ("127.0.0.1", "::1")
    _, changes = await worlds.catch_up(database, before)
    assert {change.key for change in changes} == {one}


class Names:
    """A fake resolver with the addresses of the test; it counts its queries."""

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


async def test_host_name_with_a_new_address_is_followed(harness, names):
    one = await harness.declare(address="exit.example", endpoint=None)
    names.addresses["exit.example"] = ["198.51.100.7"]
    await harness.run_keeper()
    names.addresses["exit.example"] = ["198.51.100.8"]
    await harness.pass_time(8)
    assert await endpoint(harness, one) == "198.51.100.8"


async def test_host_name_with_several_addresses_does_not_flap(harness, names, database):
    one = await harness.declare(address="exit.example", endpoint=None)
    names.addresses["exit.example"] = ["198.51.100.8", "198.51.100.7"]
    await harness.run_keeper()
    before = await worlds.current_revision(database)
    names.addresses["exit.example"] = ["198.51.100.7", "198.51.100.8"]
    await harness.pass_time(8)
    assert await endpoint(harness, one) == "198.51.100.7"
    assert await worlds.current_revision(database) == before


async def test_host_name_that_fails_keeps_its_last_endpoint(harness, names):
    one = await harness.declare(address="exit.example", endpoint="198.51.100.7")
    await harness.run_keeper()
    assert names.asked == ["exit.example"]
    assert await endpoint(harness, one) == "198.51.100.7"


@pytest.mark.parametrize("address", ["a..example", f"{'a' * 64}.example"])
async def test_malformed_host_name_does_not_affect_other_exits(harness, address):
    bad = await harness.declare("bad", address=address, endpoint=None)
    good = await harness.declare("good", address="localhost", endpoint=None)
    await harness.run_keeper()
    assert await endpoint(harness, bad) is None
    assert await endpoint(harness, good) is not None


async def test_addresses_are_not_resolved(harness, names):
    await harness.declare()
    await harness.run_keeper()
    assert names.asked == []


async def test_host_names_are_resolved_at_their_interval(harness, names, clock):
    await harness.declare(address="exit.example", endpoint=None)
    for _ in range(11):
        await harness.run_keeper()
        clock.advance(seconds=1)
    assert len(names.asked) == 3


async def test_address_that_changed_meanwhile_is_not_overwritten(harness, database):
    one = await harness.declare(address="new.example", endpoint=None)
    async with write(database) as unit:
        await exits.set_endpoint(unit, one, "old.example", "198.51.100.7")
    assert unit.revision is None
    assert await endpoint(harness, one) is None


# -- old rows ----------------------------------------------------------------------------------------------------------


async def test_old_changes_are_pruned_except_the_newest(harness, database, clock, monkeypatch):
    monkeypatch.setattr(module, "KEEP_CHANGES", 1)
    for number in range(4):
        await harness.declare(f"exit-{number}")
    world = await worlds.load(database)

    async def is_remembered(revision):
        return (await worlds.touched_since(database, revision, []))[1] is not None

    await database_changes_are_from(database, clock() - timedelta(hours=2))
    await harness.run_keeper()
    assert not await is_remembered(world.revision - 2)
    assert await is_remembered(world.revision - 1)
    await harness.declare("exit-4")
    await database_changes_are_from(database, clock() - timedelta(hours=2))
    await harness.pass_time(290)
    assert await is_remembered(world.revision - 1)
    await harness.pass_time(16)
    assert not await is_remembered(world.revision - 1)


async def database_changes_are_from(database, at):
    connection = await database.connect()
    await connection.execute("UPDATE change SET at = $1", at)
    await connection.close()


# -- degraded, flapping, caps, shares -------------------------------------------------------------------------------

GOOD = {"address": "198.51.100.1", "country": "us", "error": "", "conflict": "", "leak": "", "rtt_ms": 20}


async def set_resilience(harness, **resilience):
    async with harness.database.session() as session:
        await session.execute(update(PoolRow).values(resilience=resilience))


async def set_balancing(harness, **balancing):
    async with harness.database.session() as session:
        await session.execute(update(PoolRow).values(balancing=balancing))


async def send_heartbeat_and_run(harness, exit_id, **said):
    harness.clock.advance(seconds=1)
    await harness.send_heartbeat(exit_id, **said)
    await harness.run_keeper()
    return await harness.row(exit_id)


async def test_unverified_exit_is_offered_once_its_pool_allows_it(harness, clock):
    one, told = await harness.declare(), []
    for allowed in (False, True, False):
        async with harness.database.session() as session:
            await session.execute(update(PoolRow).values(allow_unverified=allowed))
        clock.advance(seconds=5)
        told.append((await send_heartbeat_and_run(harness, one)).state)
    assert told == [ExitState.UNVERIFIED, ExitState.HEALTHY, ExitState.UNVERIFIED]


async def test_disagreeing_sources_degrade_an_exit(harness):
    one = await harness.declare()
    row = await send_heartbeat_and_run(harness, one, observation={**GOOD, "conflict": "a sees fr"})
    assert (row.state, row.state_reason) == (ExitState.DEGRADED, "sources disagree: a sees fr")
    assert (await send_heartbeat_and_run(harness, one, observation=GOOD)).state == ExitState.HEALTHY


async def test_slow_exit_is_degraded_until_clearly_faster(harness):
    await set_resilience(harness, degraded_above_ms=100)
    one = await harness.declare()
    row = await send_heartbeat_and_run(harness, one, observation={**GOOD, "rtt_ms": 101})
    assert (row.state, row.state_reason) == (
        ExitState.DEGRADED,
        "its round trips take 101 ms, and its pool calls more than 100 ms slow",
    )
    assert (await send_heartbeat_and_run(harness, one, observation={**GOOD, "rtt_ms": 81})).state == ExitState.DEGRADED
    assert (await send_heartbeat_and_run(harness, one, observation={**GOOD, "rtt_ms": 80})).state == ExitState.HEALTHY


async def test_full_exit_is_degraded_until_clearly_below_capacity(harness):
    one = await harness.declare(capacity=10)
    row = await send_heartbeat_and_run(harness, one, open_requests=10)
    assert (row.state, row.state_reason) == (ExitState.DEGRADED, "it carries 10 requests, and its capacity is 10")
    assert (await send_heartbeat_and_run(harness, one, open_requests=8)).state == ExitState.DEGRADED
    assert (await send_heartbeat_and_run(harness, one, open_requests=7)).state == ExitState.HEALTHY


async def test_degraded_exit_that_leaks_is_taken_out_at_once(harness):
    one = await harness.declare(state=ExitState.DEGRADED)
    await harness.send_heartbeat(one, observation={**GOOD, "leak": "it leaks"})
    await harness.run_keeper()
    assert await harness.state(one) == ExitState.LEAKING


async def flap(harness, exit_id):
    """Report the tunnel down, and up again a second later."""
    await send_heartbeat_and_run(harness, exit_id, tunnel_up=False)
    return await send_heartbeat_and_run(harness, exit_id)


async def test_flapping_exit_is_held_down(harness):
    await set_resilience(harness, flap_threshold=2, hold_down_s=30)
    one = await harness.declare()
    await send_heartbeat_and_run(harness, one)
    for _ in range(2):
        assert (await flap(harness, one)).state == ExitState.HEALTHY
    row = await flap(harness, one)
    assert (row.state, row.state_reason) == (
        ExitState.VERIFYING,
        "it stopped serving 3 times within 600 s: it has to be up for 30 s",
    )
    await harness.pass_time(28)
    assert (await send_heartbeat_and_run(harness, one)).state == ExitState.VERIFYING
    assert (await send_heartbeat_and_run(harness, one)).state == ExitState.HEALTHY


async def test_flap_during_hold_down_restarts_it(harness):
    await set_resilience(harness, flap_threshold=0, hold_down_s=30)
    one = await harness.declare()
    await send_heartbeat_and_run(harness, one)
    await flap(harness, one)
    await harness.pass_time(20)
    assert (await flap(harness, one)).state == ExitState.VERIFYING
    await harness.pass_time(20)
    assert (await send_heartbeat_and_run(harness, one)).state == ExitState.VERIFYING


async def test_old_flaps_do_not_count(harness):
    await set_resilience(harness, flap_threshold=0, flap_window_s=60)
    one = await harness.declare()
    await send_heartbeat_and_run(harness, one)
    await send_heartbeat_and_run(harness, one, tunnel_up=False)
    harness.clock.advance(seconds=61)
    assert (await send_heartbeat_and_run(harness, one)).state == ExitState.HEALTHY


async def test_taking_an_exit_out_is_no_flap(harness):
    await set_resilience(harness, flap_threshold=0)
    one = await harness.declare()
    await send_heartbeat_and_run(harness, one)
    async with write(harness.database) as unit:
        for old, new in ((ExitState.HEALTHY, ExitState.DRAINING), (ExitState.DRAINING, ExitState.REGISTERING)):
            await exits.change_state(unit, one, old, new, "", harness.clock())
    assert (await send_heartbeat_and_run(harness, one)).state == ExitState.HEALTHY


async def test_exit_at_its_monthly_cap_is_drained_until_the_next_month(harness):
    one = await harness.declare(monthly_cap_gb=2)
    await send_heartbeat_and_run(harness, one, carried_bytes=1_500_000_000)
    assert await harness.state(one) == ExitState.HEALTHY
    await send_heartbeat_and_run(harness, one, carried_bytes=300_000_000)  # a new Envoy counts from zero
    await harness.pass_time(8)
    assert await harness.state(one) == ExitState.HEALTHY
    await send_heartbeat_and_run(harness, one, carried_bytes=600_000_000)
    await harness.pass_time(8)
    row = await harness.row(one)
    assert (row.state, row.state_reason) == (ExitState.DRAINING, f"it has carried its 2 GB of {harness.clock():%Y-%m}")
    harness.clock.advance(seconds=32 * 86_400)
    await harness.run_keeper()
    await send_heartbeat_and_run(harness, one, carried_bytes=600_000_000)
    await harness.pass_time(8)
    await send_heartbeat_and_run(harness, one, carried_bytes=600_000_000)
    assert await harness.state(one) == ExitState.HEALTHY


async def test_raised_cap_lets_an_exit_serve_again(harness):
    one = await harness.declare(monthly_cap_gb=1)
    await send_heartbeat_and_run(harness, one, carried_bytes=1_000_000_000)
    await harness.pass_time(8)
    assert await harness.state(one) == ExitState.DRAINING
    async with harness.database.session() as session:
        await session.execute(update(ExitRow).values(monthly_cap_gb=3))
    await harness.pass_time(8)
    assert (await send_heartbeat_and_run(harness, one, carried_bytes=1_000_000_000)).state == ExitState.HEALTHY


async def revision(harness):
    async with harness.database.session() as session:
        return (await session.execute(text("SELECT value FROM revision"))).scalar_one()


@pytest.mark.slow
async def test_fleet_is_weighed_once_a_minute_in_one_revision(harness):
    await set_balancing(harness, weigh_by="latency")
    exit_ids = [await harness.declare(str(number)) for number in range(4)]

    async def spend(seconds, *rtts):
        for _ in range(seconds // 20):
            for exit_id, rtt in zip(exit_ids, rtts, strict=True):
                await harness.send_heartbeat(exit_id, observation={**GOOD, "rtt_ms": rtt})
            await harness.pass_time(20)
        return [(await harness.row(each)).share for each in exit_ids]

    assert await spend(80, 20, 20, 20, 20) == [16, 16, 16, 16]
    before = await revision(harness)
    assert await spend(600, 20, 160, 160, 160) == [16, 2, 2, 2]
    assert 1 <= await revision(harness) - before <= 10


async def test_pool_without_weigh_by_resets_its_shares(harness):
    await set_balancing(harness, weigh_by="cost")
    one = await harness.declare(cost=3.0)
    await send_heartbeat_and_run(harness, one)
    await harness.pass_time(64)
    assert (await harness.row(one)).share == 16
    await set_balancing(harness)
    await harness.pass_time(64)
    assert (await harness.row(one)).share == 1
