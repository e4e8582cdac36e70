"""Reading of the World: catching up by changes equals a full load."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert

from model.entities import VALIDATOR, Accepted, Rejection, ResourceKey
from model.exit_states import ExitState
from model.locality import Locality
from model.repositories import declared, heartbeats, retention, rollout, sync, worlds
from model.repositories.heartbeats import Heartbeat
from model.repositories.sync import TypeSync
from model.tables import CertificateRow, ExitRow, FleetRow, ListenerRow, PoolRow, ProxyRow, RejectionRow
from model.unit_of_work import write
from model.world import Change, Kind, World

pytestmark = pytest.mark.postgres

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ResourceKey("gateway/1", "type.googleapis.com/x", "clients")


async def test_an_empty_database_is_an_empty_world(database):
    assert await worlds.load(database) == World()


async def test_world_has_everything_that_is_declared(database, declare):
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
        pool = await declare.pool(unit, fleet)
        exit_ = await declare.exit(
            unit, pool, egress_address="10.0.0.2", endpoint=None, address="exit.example", locality="eu-west/a"
        )
        gateway = await declare.gateway(unit, fleet, locality="us")
        unplaced = await declare.gateway(unit, fleet, "gw-2")
        await rollout.record_rejection(unit, Rejection(KEY, "v2", gateway.id, "no"), NOW)
    world = await worlds.load(database)
    assert world.revision == 1
    assert world.fleets[fleet.id].name == "demo"
    assert [listener.port for listener in world.listeners.values()] == [8080]
    assert world.pools[pool.id].country == "us"
    assert (world.exits[exit_.id].endpoint, world.exits[exit_.id].egress_address) == (None, "10.0.0.2")
    assert world.exits[exit_.id].state is ExitState.HEALTHY
    assert set(world.proxies) == {exit_.id, gateway.id, unplaced.id}
    assert world.exits[exit_.id].locality == world.proxies[exit_.id].locality == Locality("eu-west", "a")
    assert [world.proxies[row.id].locality for row in (gateway, unplaced)] == [Locality("us"), None]
    assert [each.detail for each in world.rejections.values()] == ["no"]
    assert world.exits_of == {pool.id: {exit_.id}}
    assert world.gateways_at == {fleet.id: {Locality("us"): 1, None: 1}}


async def test_up_to_date_world_stays_unchanged(database, declare):
    async with write(database) as unit:
        await declare.fleet(unit)
    world = await worlds.load(database)
    assert await worlds.catch_up(database, world) == (world, ())


async def test_catching_up_after_random_writes_equals_loading(database, declare):
    random = Random(7)
    world = await worlds.load(database)
    async with write(database) as unit:
        fleets = [await declare.fleet(unit, name) for name in ("a", "b")]
        pools = [await declare.pool(unit, fleet, country) for fleet in fleets for country in ("us", "de", "jp")]
    rows: list[ExitRow] = []
    gateways: list[ProxyRow] = []
    for step in range(80):
        async with write(database) as unit:
            await change_something(random, declare, unit, fleets, pools, rows, gateways, step)
        if random.random() < 0.4:  # several revisions at once, as after an outage
            world, changes = await worlds.catch_up(database, world)
            assert world == await worlds.load(database)
            assert world.revision == unit.revision
            assert {change.key for change in changes} >= {change.key for change in changes if change.value is None}


async def change_something(random, declare, unit, fleets, pools, rows, gateways, step):
    def pick(row_type, row):
        return declared.lock(unit.session, row_type, row.id)

    locality = random.choice([None, "eu", "eu/a", "us"])
    steps = ["add", "add", "change", "move", "remove", "rename", "listener", "open", "relocate", "close"]
    match random.choice(steps):
        case "add":
            rows.append(await declare.exit(unit, random.choice(pools), f"exit-{step}"))
        case "change" if rows:
            row = await pick(ExitRow, random.choice(rows))
            fields = {"port": 9000 + step, "state": ExitState.LOST, "locality": locality}
            await declared.save_changes(unit, row, fields)
        case "open":
            gateways.append(await declare.gateway(unit, random.choice(fleets), f"gw-{step}", locality=locality))
        case "relocate" if gateways:
            row = await pick(ProxyRow, random.choice(gateways))
            await declared.save_changes(unit, row, {"locality": locality})
        case "close" if gateways:
            row = gateways.pop(random.randrange(len(gateways)))
            await declared.remove(unit, await pick(ProxyRow, row))
        case "move" if rows:
            row = await pick(ExitRow, random.choice(rows))
            await declared.save_changes(unit, row, {"pool_id": random.choice(pools).id})
        case "remove" if rows:
            row = rows.pop(random.randrange(len(rows)))
            await declared.remove(unit, await pick(ExitRow, row))
            await declared.remove(unit, await pick(ProxyRow, row))
        case "rename":
            pool = await pick(PoolRow, random.choice(pools))
            await declared.save_changes(unit, pool, {"name": f"pool-{step}"})
        case _:
            (listener,) = await declared.listeners_of(unit.session, random.choice(fleets).id)
            await declared.save_changes(unit, listener, {"port": 9000 + step})


async def test_entity_created_and_removed_between_reads_is_reported_as_gone(database, declare):
    world = await worlds.load(database)
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
    async with write(database) as unit:
        row = await declared.find_fleet(unit.session, "demo")
        (listener,) = await declared.listeners_of(unit.session, row.id)
        await declared.remove(unit, listener)
        await declared.remove(unit, row)
    caught_up, changes = await worlds.catch_up(database, world)
    assert Change(Kind.FLEET, fleet.id, None) in changes
    assert caught_up == World(revision=2)


@pytest.mark.slow
async def test_catch_up_reads_a_write_of_thousands(database, declare):
    world = await worlds.load(database)
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
        for number in range(4_100):
            row = ProxyRow(id=uuid4(), fleet_id=fleet.id, name=f"gw-{number}", role="gateway", created_at=NOW)
            unit.session.add(row)
            unit.touch(Kind.PROXY, row.id)
    caught_up, changes = await worlds.catch_up(database, world)
    assert len(changes) == 4_102
    assert caught_up == await worlds.load(database)


@pytest.mark.slow
async def test_catch_up_reads_thousands_of_rejections(database):
    """Their keys have five parts each, and PostgreSQL takes 32,767 parameters."""
    world = await worlds.load(database)
    keys = [ResourceKey("gateway/1", "type.googleapis.com/x", f"name-{number}") for number in range(8_300)]
    rows = [asdict(key) | {"version": "v", "proxy_id": uuid4(), "detail": "no", "at": NOW} for key in keys]
    async with write(database) as unit:
        await unit.session.execute(insert(RejectionRow), rows)
        for key, row in zip(keys, rows, strict=True):
            unit.touch(Kind.REJECTION, (key, "v", row["proxy_id"]))
    caught_up, _ = await worlds.catch_up(database, world)
    assert len(caught_up.rejections) == 8_300
    assert caught_up == await worlds.load(database)


async def test_kinds_of_a_newer_version_are_skipped(database, declare, query):
    """During a rolling upgrade, old replicas must tolerate what new ones write."""
    world = await worlds.load(database)
    async with write(database) as unit:
        unit.touch("of tomorrow", uuid4())
        fleet = await declare.fleet(unit)
    caught_up, changes = await worlds.catch_up(database, world)
    assert {change.kind for change in changes} == {Kind.FLEET, Kind.LISTENER}
    assert fleet.id in caught_up.fleets
    assert caught_up == await worlds.load(database)


# -- gaps --------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def six_revisions(database, declare) -> World:
    """The World at revision 1, followed by five more revisions."""
    async with write(database) as unit:
        await declare.fleet(unit, "fleet-1")
    world = await worlds.load(database)
    for number in range(2, 7):
        async with write(database) as unit:
            await declare.fleet(unit, f"fleet-{number}")
    return world


@pytest.mark.parametrize("missing", ["revision = 2", "revision <= 4", "revision IN (3, 4)", "revision = 6", "true"])
async def test_gap_in_the_log_needs_a_full_load(database, query, six_revisions, missing):
    await query(f"DELETE FROM change WHERE {missing}")
    assert await worlds.catch_up(database, six_revisions) is None
    assert await worlds.touched_since(database, 1, [Kind.FLEET]) == (6, None)


async def test_missing_older_revisions_are_no_gap(database, query, six_revisions):
    await query("DELETE FROM change WHERE revision = 1")
    caught_up, _ = await worlds.catch_up(database, six_revisions)
    assert caught_up == await worlds.load(database)


async def test_lower_revision_needs_a_full_load(database, query, six_revisions):
    world = await worlds.load(database)
    await query("UPDATE revision SET value = 4")
    await query("DELETE FROM change WHERE revision > 4")
    assert await worlds.catch_up(database, world) is None
    assert await worlds.touched_since(database, 6, [Kind.FLEET]) == (4, None)


async def test_touched_since_returns_changes_of_the_given_kinds(database, declare, six_revisions):
    async with write(database) as unit:
        fleet = await declare.fleet(unit, "fleet-7")
        gateway = await declare.gateway(unit, fleet)
    assert await worlds.touched_since(database, 6, [Kind.PROXY]) == (7, frozenset({gateway.id}))
    assert await worlds.touched_since(database, 7, [Kind.PROXY]) == (7, frozenset())
    assert await worlds.touched_since(database, None, [Kind.PROXY]) == (7, None)


# -- pruning -----------------------------------------------------------------------------------------------------------


async def prune(database, *, before, keep):
    async with database.session() as session:
        await retention.prune(session, before=before, keep=keep)


@pytest.mark.parametrize(("keep", "left"), [(12, [1, 2, 3, 4, 5, 6]), (4, [5, 6]), (2, [6])])
async def test_pruning_keeps_the_newest_changes_however_old(database, query, six_revisions, keep, left):
    await query("UPDATE change SET at = :at", at=NOW - timedelta(days=9))
    await prune(database, before=NOW, keep=keep)
    assert await query("SELECT DISTINCT revision FROM change ORDER BY revision") == [(each,) for each in left]


async def test_pruning_keeps_young_changes_however_many(database, query, six_revisions):
    await query("UPDATE change SET at = :at", at=NOW)
    await query("UPDATE change SET at = :at WHERE revision <= 3", at=NOW - timedelta(hours=2))
    await prune(database, before=NOW - timedelta(hours=1), keep=1)
    assert await query("SELECT DISTINCT revision FROM change ORDER BY revision") == [(4,), (5,), (6,)]


async def test_pruning_keeps_the_minimum_when_fewer_are_young(database, query, six_revisions):
    await query("UPDATE change SET at = :at", at=NOW - timedelta(days=9))
    await query("UPDATE change SET at = :at WHERE revision = 6", at=NOW)
    await prune(database, before=NOW - timedelta(hours=1), keep=4)
    assert await query("SELECT DISTINCT revision FROM change ORDER BY revision") == [(5,), (6,)]


async def test_pruning_removes_whole_revisions(database, query, six_revisions):
    """A partly deleted revision would look complete to a reader that catches up."""
    await query("UPDATE change SET at = :at", at=NOW - timedelta(days=9))
    await prune(database, before=NOW, keep=3)  # each revision here has two rows
    assert await query("SELECT revision, count(*) FROM change GROUP BY 1 ORDER BY 1") == [(5, 2), (6, 2)]


async def test_pruning_leaves_no_gap_after_a_slow_clock(database, query, six_revisions):
    await query("UPDATE change SET at = :at", at=NOW)
    await query("UPDATE change SET at = :at WHERE revision IN (1, 4)", at=NOW - timedelta(days=9))
    await prune(database, before=NOW - timedelta(hours=1), keep=1)
    left = [revision for (revision,) in await query("SELECT DISTINCT revision FROM change ORDER BY revision")]
    assert left == [2, 3, 4, 5, 6]
    assert await worlds.catch_up(database, six_revisions) is not None


async def test_after_pruning_only_an_outdated_world_needs_a_full_load(database, query, six_revisions):
    behind, current = six_revisions, await worlds.load(database)
    await query("UPDATE change SET at = :at", at=NOW - timedelta(days=9))
    await prune(database, before=NOW, keep=2)
    assert await worlds.catch_up(database, behind) is None
    assert await worlds.catch_up(database, current) == (current, ())


# -- rollout state -----------------------------------------------------------------------------------------------------


async def released(database, version: str, body: bytes, *, revision: int, **fields) -> bool:
    """Release a change-set of one resource, based on the World at `revision`; return whether it was released."""
    async with write(database) as unit:
        due = rollout.AcceptedChangeSet(KEY.group, version, {KEY: (version, body)}, frozenset(), revision, **fields)
        return bool(await rollout.release(unit, [due], NOW))


async def refuse(database, version: str, proxy_id: UUID = VALIDATOR) -> None:
    async with write(database) as unit:
        await rollout.record_rejection(unit, Rejection(KEY, version, proxy_id, "no"), NOW)


async def test_released_version_reaches_every_replica(database):
    before = await worlds.load(database)
    assert await released(database, "v1", b"one", revision=before.revision)
    world, changes = await worlds.catch_up(database, before)
    assert world.accepted[KEY] == Accepted(KEY, "v1", b"one")
    assert [change.kind for change in changes] == [Kind.ACCEPTED]
    assert world == await worlds.load(database)


async def test_replica_behind_the_newest_release_releases_nothing(database):
    """Its decision is based on an outdated state of the group."""
    before = await worlds.load(database)
    assert await released(database, "v1", b"one", revision=before.revision)
    assert not await released(database, "v0", b"none", revision=before.revision)
    world = await worlds.load(database)
    assert world.accepted[KEY].version == "v1"
    assert await released(database, "v2", b"two", revision=world.revision)


async def test_rejection_is_read_with_the_version_to_fall_back_to(database):
    """Otherwise a replica that caught up and one that loaded would fall back to different bytes."""
    await released(database, "v1", b"one", revision=0)
    before = await worlds.load(database)
    await refuse(database, "v2")
    world, changes = await worlds.catch_up(database, before)
    assert {change.kind for change in changes} == {Kind.ACCEPTED, Kind.REJECTION}
    assert world.accepted[KEY].body == b"one"
    assert world == await worlds.load(database)


async def test_rejected_version_is_not_released(database):
    """A gateway rejected it after the decision to release it."""
    await released(database, "v1", b"one", revision=0)
    world = await worlds.load(database)
    await refuse(database, "v2")
    assert not await released(database, "v2", b"two", revision=world.revision)
    assert (await worlds.load(database)).accepted[KEY].version == "v1"


async def test_an_approval_lasts_for_one_release(database, declare):
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
        await rollout.approve(unit, fleet.id)
    world = await worlds.load(database)
    assert fleet.id in world.approvals
    assert await released(database, "v1", b"one", revision=world.revision, approved_fleet=fleet.id)
    assert fleet.id not in (await worlds.load(database)).approvals


async def test_rejection_of_removed_proxy_is_not_recorded(database, declare):
    """It waited in a recorder while its proxy was removed, and would count against the version as if the proxy were there."""
    async with write(database) as unit:
        gateway = await declare.gateway(unit, await declare.fleet(unit))
    for proxy_id in (uuid4(), gateway.id, VALIDATOR):
        await refuse(database, "v2", proxy_id)
    world = await worlds.load(database)
    assert world.rejections_of[KEY, "v2"] == {(KEY, "v2", gateway.id), (KEY, "v2", VALIDATOR)}


async def test_first_rejection_of_each_proxy_is_recorded(database, declare):
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
        first, second = [(await declare.gateway(unit, fleet, name)).id for name in ("gw-1", "gw-2")]
    for proxy_id, detail in ((first, "no"), (second, "neither"), (first, "never")):
        async with write(database) as unit:
            await rollout.record_rejection(unit, Rejection(KEY, "v2", proxy_id, detail), NOW)
    world = await worlds.load(database)
    assert world.rejections_of[KEY, "v2"] == {(KEY, "v2", first), (KEY, "v2", second)}
    assert {each.detail for each in world.rejections.values()} == {"no", "neither"}


async def test_rejections_of_absent_proxies_are_forgotten(database, declare):
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
        connected, heard, silent, expired, recent = [
            (await declare.gateway(unit, fleet, f"gw-{number}")).id for number in range(5)
        ]
        for proxy_id in (connected, heard, silent, expired, VALIDATOR):
            await rollout.record_rejection(unit, Rejection(KEY, "v2", proxy_id, "no"), NOW - timedelta(hours=2))
        await rollout.record_rejection(unit, Rejection(KEY, "v2", recent, "no"), NOW)
        for proxy_id in (connected, expired):
            await sync.record(unit.session, uuid4(), [TypeSync(proxy_id, "x")])
        await heartbeats.store(unit.session, [Heartbeat(heard, NOW, NOW, True, True, False, "", "1")])
        times = {"issued_at": NOW - timedelta(days=2), "expires_at": NOW - timedelta(days=1)}
        unit.session.add(CertificateRow(thumbprint="x", proxy_id=expired, public_key="", **times))
    before = await worlds.load(database)
    async with write(database) as unit:
        await rollout.forget_rejections_of_absent(unit, since=NOW - timedelta(hours=1), now=NOW)
    world, _ = await worlds.catch_up(database, before)
    assert {each.proxy_id for each in world.rejections.values()} == {connected, heard, recent, VALIDATOR}
    assert world == await worlds.load(database)


async def test_release_uses_up_its_override(database, declare):
    async with write(database) as unit:
        fleet = await declare.fleet(unit)
        for change_set in ("one", "one", "two"):
            await rollout.override(unit, fleet.id, "gateway/1", change_set, NOW)
    world = await worlds.load(database)
    assert sorted(each.change_set for each in world.overrides.values()) == ["one", "two"]
    (used,) = [each.id for each in world.overrides.values() if each.change_set == "one"]
    assert await released(database, "v1", b"one", revision=world.revision, overrides=frozenset({used}))
    world = await worlds.load(database)
    assert [each.change_set for each in world.overrides.values()] == ["two"]
    async with write(database) as unit:
        await rollout.prune_overrides(unit, NOW + timedelta(seconds=1))
    assert not (await worlds.catch_up(database, world))[0].overrides


def test_every_kind_has_a_reader():
    assert set(worlds._TABLES) == set(Kind) - {Kind.PLAN}
    assert {FleetRow, ListenerRow, PoolRow, ExitRow, ProxyRow} <= {table for table, _ in worlds._TABLES.values()}
