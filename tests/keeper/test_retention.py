"""Retention: rollout state of removed things, rows that are too old, and the rows of dead replicas."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, select, text

from model.authority import LEAF_LIFETIME
from model.entities import VALIDATOR, Rejection, ResourceKey, Role
from model.repositories import (
    config_requests,
    declared,
    idempotency,
    keepalives,
    logins,
    operators,
    rollout,
    sync,
    worlds,
)
from model.repositories.idempotency import StoredReply
from model.repositories.sync import TypeSync
from model.tables import (
    AcceptedRow,
    CanaryRow,
    ConfigRequestRow,
    FleetRow,
    IdempotencyRow,
    OperatorRow,
    ProxyRow,
    RejectionRow,
    RemovedProxyRow,
    ReplicaRow,
    RolloutRow,
    SessionRow,
    ThrottleRow,
)
from model.unit_of_work import write

pytestmark = pytest.mark.postgres
TYPE = "type.googleapis.com/x"


@pytest.fixture
def count(harness):
    async def read(table) -> int:
        async with harness.database.session() as session:
            return (await session.execute(select(func.count()).select_from(table))).scalar_one()

    return read


@pytest.fixture
def settle(harness, clock):
    """`await settle(group)` stores an accepted resource, a rejection, a canary and a rollout of a group."""

    async def store(group: str, fleet_id) -> None:
        key = ResourceKey(group, TYPE, "clients")
        revision = (await worlds.load(harness.database)).revision
        async with write(harness.database) as unit:
            await rollout.release(
                unit, [rollout.AcceptedChangeSet(group, "set", {key: ("v1", b"one")}, frozenset(), revision)], clock()
            )
            await rollout.record_rejection(unit, Rejection(key, "v2", VALIDATOR, "no"), clock())
            unit.session.add(CanaryRow(group=group, proxy_id=uuid4(), replica=uuid4()))
            unit.session.add(RolloutRow(group=group, fleet_id=fleet_id, change_sets=[], at=clock()))

    return store


async def test_rollout_state_of_a_removed_fleet_is_pruned(harness, clock, count, settle):
    async with write(harness.database) as unit:
        gone = await declared.save(unit, FleetRow(name="gone", created_at=clock()))
    await settle(f"gateway/{gone.id}", gone.id)
    await settle(f"endpoints/{harness.pool.fleet_id}/eu", harness.pool.fleet_id)
    await harness.run_keeper()
    assert [await count(table) for table in (AcceptedRow, RejectionRow, RolloutRow)] == [2, 2, 2]
    before = await worlds.load(harness.database)
    async with write(harness.database) as unit:
        await declared.remove(unit, await declared.lock(unit.session, FleetRow, gone.id))
    clock.advance(seconds=600)
    await harness.run_keeper()
    assert [await count(table) for table in (AcceptedRow, RejectionRow, RolloutRow)] == [1, 1, 1]
    world, _ = await worlds.catch_up(harness.database, before)
    assert {key.group for key in world.accepted} == {f"endpoints/{harness.pool.fleet_id}/eu"}
    assert world == await worlds.load(harness.database)


async def test_old_rejections_are_pruned_unless_a_rollout_is_open(harness, clock, count, settle):
    group = f"gateway/{harness.pool.fleet_id}"
    await settle(group, harness.pool.fleet_id)
    clock.advance(seconds=timedelta(days=91).total_seconds())
    await harness.run_keeper()
    assert await count(RejectionRow) == 1
    async with harness.database.session() as session:
        await rollout.store_rollouts(session, [], [group], clock())
    clock.advance(seconds=600)
    await harness.run_keeper()
    assert await count(RejectionRow) == 0


async def test_removed_proxy_is_known_until_its_certificates_expired(harness, clock, count):
    removed = {uuid4(): timedelta(0), uuid4(): LEAF_LIFETIME}
    async with harness.database.session() as session:
        session.add_all(RemovedProxyRow(id=id_, at=clock() - ago) for id_, ago in removed.items())
    await harness.run_keeper()
    assert await count(RemovedProxyRow) == 2
    clock.advance(seconds=600)
    await harness.run_keeper()
    assert await count(RemovedProxyRow) == 1


async def test_deregistered_canaries_are_pruned(harness, clock, count):
    async with write(harness.database) as unit:
        proxy = ProxyRow(fleet_id=harness.pool.fleet_id, name="gw", role=Role.GATEWAY, created_at=clock())
        await declared.save(unit, proxy)
        replica = uuid4()
        await rollout.refresh_replica(unit.session, replica, 1)
        for proxy_id in (proxy.id, uuid4()):
            unit.session.add(CanaryRow(group=f"gateway/{proxy.fleet_id}", proxy_id=proxy_id, replica=replica))
    await harness.run_keeper()
    assert await count(CanaryRow) == 1


async def test_old_config_request_is_pruned(harness, clock, count):
    async with harness.database.session() as session:
        await config_requests.add(session, uuid4(), None)
        await session.execute(text("UPDATE question SET asked_at = :at"), {"at": clock() - timedelta(hours=2)})
    await harness.run_keeper()
    assert await count(ConfigRequestRow) == 0


async def test_stored_replies_are_kept_for_a_day(harness, clock, count):
    async with harness.database.session() as session:
        for key, age in (("new", timedelta(hours=23)), ("old", timedelta(hours=25))):
            await idempotency.save_reply(session, uuid4(), key, StoredReply("digest", 201, {}, "{}"))
            at = text("UPDATE idempotency SET at = :at WHERE key = :key")
            await session.execute(at, {"at": clock() - age, "key": key})
    await harness.run_keeper()
    async with harness.database.session() as session:
        assert (await session.execute(select(IdempotencyRow.key))).scalars().all() == ["new"]


async def test_expired_sessions_and_old_login_failures_are_pruned(harness, clock):
    async with harness.database.session() as session:
        operator = OperatorRow(name="ada", role="admin", created_at=clock())
        await operators.save(session, operator)
        for digest, left in (("alive", timedelta(seconds=1)), ("expired", timedelta(seconds=-1))):
            row = SessionRow(
                operator_id=operator.id, refresh_digest=digest, created_at=clock(), expires_at=clock() + left
            )
            await logins.start_session(session, row)
        for key, age in (("lately", timedelta(days=29)), ("long ago", timedelta(days=31))):
            session.add(ThrottleRow(key=key, failures=1, blocked_until=clock() - age, at=clock() - age))
    await harness.run_keeper()
    async with harness.database.session() as session:
        assert (await session.execute(select(SessionRow.refresh_digest))).scalars().all() == ["alive"]
        assert (await session.execute(select(ThrottleRow.key))).scalars().all() == ["lately"]


async def test_keepalives_of_silent_clients_are_pruned(harness, clock):
    async with harness.database.session() as session:
        await keepalives.store(session, "silent", {}, clock() - timedelta(days=31))
        await keepalives.store(session, "heard", {}, clock() - timedelta(days=29))
    await harness.run_keeper()
    async with harness.database.session() as session:
        assert [client_id for client_id, _, _ in await keepalives.newest(session)] == ["heard"]


async def test_dead_replica_loses_its_streams_and_canaries(harness, clock, count):
    living, dead = uuid4(), uuid4()
    proxies = {living: uuid4(), dead: uuid4()}
    async with harness.database.session() as session:
        for replica, proxy_id in proxies.items():
            assert await rollout.refresh_replica(session, replica, 1) is False
            await sync.record(session, replica, [TypeSync(proxy_id, TYPE)])
        session.add(CanaryRow(group=f"gateway/{harness.pool.fleet_id}", proxy_id=proxies[dead], replica=dead))
        await session.flush()
        age = text("UPDATE replica SET seen_at = clock_timestamp() - interval '11 seconds' WHERE id = :dead")
        await session.execute(age, {"dead": dead})
    await harness.run_keeper()
    async with harness.database.session() as session:
        replicas = {proxy: (await sync.of_proxy(session, proxy))[0].replica for proxy in proxies.values()}
        assert replicas == {proxies[living]: living, proxies[dead]: None}
        assert await rollout.refresh_replica(session, living, 2) is True
        assert await rollout.refresh_replica(session, dead, 2) is False  # so it registers its streams again
    assert [await count(table) for table in (CanaryRow, ReplicaRow)] == [0, 2]
