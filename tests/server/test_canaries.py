"""Canary rollouts: a change-set goes to canaries first, and to the other proxies once these accepted it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from sqlalchemy import select

from model.entities import ResourceKey
from model.repositories import rollout, worlds
from model.tables import AcceptedRow, CanaryRow, ReplicaRow
from model.unit_of_work import write
from xds.server import recorder as recorder_module
from xds.server import rollout_controller as controller_module
from xds.server.rollout_controller import CanaryPolicy, RolloutController
from xds.translate import names

pytestmark = pytest.mark.postgres

ROUTES = (names.ROUTE, names.GATEWAY_ROUTES)


def key_of(fleet_db) -> str:
    return f"gateway/{fleet_db.fleet.id}"


@pytest.fixture
def gateways(fleet_db, drive, until, has_all):
    """`async with gateways(server, 3) as […]`: gateways that hold everything, with no rollout in progress."""

    @asynccontextmanager
    async def start(server, count):
        async with AsyncExitStack() as stack:
            identities = [await fleet_db.add_gateway(f"gw-{uuid4()}") for _ in range(count)]
            await until(lambda: all(each.proxy_id in server.publisher.world.proxies for each in identities))
            proxies = [await stack.enter_async_context(drive(server, identity)) for identity in identities]
            await until(lambda: all(has_all(len(fleet_db.pools))(each.client) for each in proxies))
            await until(lambda: not server.publisher.rollouts_in_progress())
            yield proxies

    return start


@pytest.fixture
def sent_to(fleet_db, until):
    """`await sent_to(gateways, "jp")` waits for a pool's cluster, and returns the gateways that were sent it."""

    async def ask(proxies, country, *, count=1):
        cluster = fleet_db.cluster(country)
        await until(lambda: sum(each.was_sent(names.CLUSTER, cluster) for each in proxies) >= count)
        return [each for each in proxies if each.was_sent(names.CLUSTER, cluster)]

    return ask


@pytest.fixture
def flush_updates(fleet_db, until):
    """`await flush_updates(gateways)` moves an exit and waits for the new endpoints, so that all earlier updates are sent too."""
    numbers = iter(range(10, 250))

    async def tell(proxies):
        before = {each: each.client.versions[names.ENDPOINT].get(fleet_db.cluster("us")) for each in proxies}
        await fleet_db.change(fleet_db.exits["us"], endpoint=f"198.51.100.{next(numbers)}")
        await until(
            lambda: all(
                each.client.versions[names.ENDPOINT].get(fleet_db.cluster("us")) != version
                for each, version in before.items()
            )
        )

    return tell


def holds(proxies, country, fleet_db) -> bool:
    return all(fleet_db.cluster(country) in each.client.held(names.CLUSTER) for each in proxies)


async def test_new_pool_reaches_other_gateways_after_ack_of_canary(
    fleet_db, server, gateways, sent_to, flush_updates, until, has_all
):
    async with gateways(server, 3) as proxies:
        for each in proxies:
            each.pause(names.CLUSTER, names.ROUTE)
        await fleet_db.add_pool("jp")
        (canary,) = await sent_to(proxies, "jp")
        others = [each for each in proxies if each is not canary]
        await flush_updates(proxies)
        assert not any(each.was_sent(names.CLUSTER, fleet_db.cluster("jp")) for each in others)

        routes = len(canary.client.responses)
        canary.paused.discard(names.CLUSTER)
        await canary.client.accept(canary.waiting.pop())
        await until(lambda: canary.waiting)  # only the routes of the change-set are left
        assert canary.waiting[0].type_url == names.ROUTE
        assert len(canary.client.responses) > routes
        await flush_updates(proxies)
        assert not any(each.was_sent(names.CLUSTER, fleet_db.cluster("jp")) for each in others)

        for each in [canary, *others]:
            await each.resume()
        await until(lambda: all(has_all(3)(each.client) for each in proxies))


@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.34, 3), (0.01, 1), (0.99, 6)])
async def test_share_is_number_of_canaries(fleet_db, serve, gateways, sent_to, flush_updates, until, share, count):
    async with serve(canary=CanaryPolicy(share=share)) as server, gateways(server, 6) as proxies:
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        canaries = await sent_to(proxies, "jp", count=count)
        await flush_updates(proxies)
        assert len(await sent_to(proxies, "jp")) == count
        for each in canaries:
            await each.resume()
        for each in proxies:
            await each.resume()
        await until(lambda: holds(proxies, "jp", fleet_db))


async def test_others_wait_for_ack_of_every_canary(fleet_db, serve, gateways, sent_to, flush_updates, until):
    async with serve(canary=CanaryPolicy(share=0.5)) as server, gateways(server, 4) as proxies:
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        first, second = await sent_to(proxies, "jp", count=2)
        await first.resume()
        await until(lambda: first.client.versions[names.ROUTE] != second.client.versions[names.ROUTE])
        await flush_updates(proxies)
        assert len(await sent_to(proxies, "jp")) == 2
        await second.resume()
        assert len(await sent_to(proxies, "jp", count=4)) == 4


async def test_share_of_one_disables_canaries(fleet_db, serve, gateways, sent_to):
    async with serve(canary=CanaryPolicy(share=1)) as server, gateways(server, 3) as proxies:
        for each in proxies:
            each.pause(names.CLUSTER)
        await fleet_db.add_pool("jp")
        assert len(await sent_to(proxies, "jp", count=3)) == 3


async def test_endpoints_do_not_wait_for_canary(fleet_db, server, gateways, flush_updates, sent_to):
    async with gateways(server, 3) as proxies:
        for each in proxies:
            each.pause(names.CLUSTER)
        await fleet_db.add_pool("jp")
        await sent_to(proxies, "jp")
        await flush_updates(proxies)


@pytest.fixture
def now_s(monkeypatch) -> list[float]:
    """`now_s[0] += 61` moves the clock of rollouts, which stands still otherwise. The controller runs all the time."""
    now = [1000.0]
    monkeypatch.setattr(controller_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(controller_module, "_INTERVAL_S", 0.02)
    return now


@pytest.fixture
def reconciled(monkeypatch, until):
    """`await reconciled()` waits until the controller has processed everything from now on."""
    runs = []
    reconcile = RolloutController._reconcile

    async def counted(controller):
        await reconcile(controller)
        runs.append(controller)

    monkeypatch.setattr(RolloutController, "_reconcile", counted)

    async def wait() -> None:
        before = len(runs)
        await until(lambda: len(runs) >= before + 3)

    return wait


async def test_others_get_change_set_after_soak(fleet_db, serve, gateways, sent_to, until, monkeypatch):
    soak_s = 0.3
    async with serve(canary=CanaryPolicy(soak_s=soak_s)) as server, gateways(server, 2) as proxies:
        monkeypatch.setattr(controller_module, "_INTERVAL_S", 600)  # the end of the soak must wake the controller
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        (canary,) = await sent_to(proxies, "jp")
        accepted_at = time.monotonic()
        await canary.resume()
        await sent_to(proxies, "jp", count=2)
        assert time.monotonic() - accepted_at >= soak_s


async def test_change_during_soak_restarts_soak(fleet_db, serve, gateways, sent_to, until, now_s, reconciled):
    """The other proxies get only a change-set that the canary had for the whole soak."""
    async with serve(canary=CanaryPolicy(soak_s=60)) as server, gateways(server, 2) as proxies:
        now_s[0] += 60  # the first configuration has soaked
        await fleet_db.add_pool("jp")
        (canary,) = await sent_to(proxies, "jp")
        await until(lambda: len(canary.versions_sent(*ROUTES)) == 2)
        await reconciled()
        now_s[0] += 40
        await fleet_db.add_pool("gb")
        await until(lambda: len(canary.versions_sent(*ROUTES)) == 3 and holds([canary], "gb", fleet_db))
        await reconciled()
        now_s[0] += 40
        await reconciled()
        assert await sent_to(proxies, "jp") == [canary]
        now_s[0] += 21
        await sent_to(proxies, "jp", count=2)
        (other,) = [each for each in proxies if each is not canary]
        await until(lambda: other.client.versions == canary.client.versions)
        assert holds([other], "gb", fleet_db)
        assert len(other.versions_sent(*ROUTES)) == 2  # the first, and both pools together


async def test_disconnected_canary_is_replaced(fleet_db, server, gateways, sent_to, until):
    async with gateways(server, 3) as proxies:
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        (canary,) = await sent_to(proxies, "jp")
        canary.client.call.cancel()
        others = [each for each in proxies if each is not canary]
        (second,) = await sent_to(others, "jp")
        await second.resume()
        await sent_to(others, "jp", count=2)


async def test_canary_reconnecting_to_other_replica_does_not_block(
    fleet_db, server, serve, gateways, sent_to, until, has_all, drive
):
    async with serve() as other, gateways(server, 1) as proxies, gateways(other, 2) as elsewhere:
        proxies[0].pause(names.ROUTE)
        for each in elsewhere:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        (canary,) = await sent_to([*proxies, *elsewhere], "jp")
        home, away = (server, other) if canary in proxies else (other, server)
        canary.client.call.cancel()
        await until(lambda: canary.id not in home.publisher.proxies_of(key_of(fleet_db)))
        async with drive(away, canary.identity) as again:
            for each in (*proxies, *elsewhere):
                await each.resume()
            await until(lambda: has_all(3)(again.client))
            left = [each for each in (*proxies, *elsewhere) if each is not canary]
            await until(lambda: holds(left, "jp", fleet_db))


async def test_other_replica_continues_when_canarys_gateways_are_gone(
    fleet_db, server, serve, gateways, sent_to, until
):
    async with serve() as other, gateways(server, 1) as here, gateways(other, 1) as there:
        proxies = [*here, *there]
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        (canary,) = await sent_to(proxies, "jp")
        (left,) = [each for each in proxies if each is not canary]
        canary.client.call.cancel()
        await left.resume()
        await until(lambda: holds([left], "jp", fleet_db))


async def test_silent_canary_is_replaced(fleet_db, serve, gateways, sent_to, until, now_s, reconciled):
    async with serve(canary=CanaryPolicy(patience_s=60)) as server, gateways(server, 3) as proxies:
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        (silent,) = await sent_to(proxies, "jp")
        await reconciled()
        assert await sent_to(proxies, "jp") == [silent]
        now_s[0] += 61
        others = [each for each in proxies if each is not silent]
        for each in others:
            await each.resume()
        await until(lambda: holds(others, "jp", fleet_db))
        await silent.resume()
        await until(lambda: silent.client.versions == others[0].client.versions)


async def test_slow_canaries_are_asked_again(fleet_db, serve, gateways, sent_to, until, now_s):
    """After all proxies were too slow, they are asked again."""
    async with serve(canary=CanaryPolicy(patience_s=60)) as server, gateways(server, 2) as proxies:
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        (first,) = await sent_to(proxies, "jp")
        now_s[0] += 61
        await sent_to(proxies, "jp", count=2)
        (second,) = [each for each in proxies if each is not first]
        await until(lambda: server.publisher.canaries_of(key_of(fleet_db)) == {second.id})
        now_s[0] += 61
        await until(lambda: server.publisher.canaries_of(key_of(fleet_db)) == {first.id})
        for each in proxies:
            await each.resume()
        await until(lambda: holds(proxies, "jp", fleet_db))
        await until(lambda: not server.publisher.rollouts_in_progress())


# -- replicas ----------------------------------------------------------------------------------------------------------


async def test_two_replicas_share_one_canary(fleet_db, server, serve, gateways, sent_to, flush_updates, until):
    async with serve() as other, gateways(server, 2) as here, gateways(other, 2) as there:
        proxies = [*here, *there]
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        (canary,) = await sent_to(proxies, "jp")
        await flush_updates(proxies)
        assert await sent_to(proxies, "jp") == [canary]
        for each in proxies:
            await each.resume()
        await until(lambda: holds(proxies, "jp", fleet_db))


async def test_share_gives_each_replica_canaries_that_must_all_accept(
    fleet_db, serve, gateways, sent_to, flush_updates, until, monkeypatch, database
):
    monkeypatch.setattr(recorder_module, "_HEARTBEAT_EVERY_S", 0.2)
    policy = CanaryPolicy(share=0.5)
    released = []
    release = rollout.release

    async def counted(*given):
        released.append(given)
        return await release(*given)

    async with (
        serve(canary=policy) as server,
        serve(canary=policy) as other,
        gateways(server, 2) as here,
        gateways(other, 2) as there,
    ):
        proxies = [*here, *there]
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        canaries = await sent_to(proxies, "jp", count=2)
        assert {each in here for each in canaries} == {True, False}
        first, second = canaries
        await first.resume()
        await flush_updates(proxies)
        monkeypatch.setattr(rollout, "release", counted)
        beats = await _beats(database)

        async def later():
            return await _beats(database) > beats + timedelta(seconds=1.5)

        await until(later)
        assert len(await sent_to(proxies, "jp")) == 2
        assert len(released) < 10  # the waiting replica does not poll endlessly
        await second.resume()
        await until(lambda: first.client.versions[names.ROUTE] == second.client.versions[names.ROUTE])
        await sent_to(proxies, "jp", count=4)


async def _beats(database):
    async with database.session() as session:
        return min((await session.execute(select(ReplicaRow.seen_at))).scalars())


async def test_canary_of_dead_replica_does_not_block(fleet_db, server, gateways, sent_to, until, database):
    async with gateways(server, 2) as proxies:
        async with database.session() as session:
            dead = uuid4()
            long_ago = datetime.now(UTC) - timedelta(minutes=1)
            session.add(ReplicaRow(id=dead, revision=1, seen_at=long_ago))
            session.add(CanaryRow(group=key_of(fleet_db), proxy_id=fleet_db.gateway.id, replica=dead))
        await fleet_db.add_pool("jp")
        await until(lambda: holds(proxies, "jp", fleet_db))


async def test_rollout_continues_after_replica_stops(fleet_db, server, serve, gateways, sent_to, until, drive):
    """The canary's replica stops, and another replica tries the change-set again."""
    async with serve() as stays, gateways(stays, 1) as left:
        async with serve() as ends, gateways(ends, 1) as there:
            for each in (*left, *there):
                each.pause(names.ROUTE)
            left[0].client.responses.clear()
            await fleet_db.add_pool("jp")
            await sent_to([*left, *there], "jp")
        await left[0].resume()
        await until(lambda: holds(left, "jp", fleet_db))


# -- the first state of a group ---------------------------------------------------------------------------------------


async def test_change_before_first_release_sends_nobody_back(fleet_db, server, drive, until, monkeypatch):
    """Everybody is given the first state, and what replaces it before its release."""
    release, changed = rollout.release, []

    def holds_change() -> bool:
        (pending,) = server.publisher.streams_of(fleet_db.gateway.id)
        settled = not pending.is_pending(names.ROUTE) and pending.stream.is_in_sync(names.ROUTE)
        return settled and server.publisher.world.revision >= changed[0]

    async def release_late(*given):
        if not changed:
            changed.append(await fleet_db.change(fleet_db.pools["us"], name="renamed"))
            await until(holds_change)
        return await release(*given)

    monkeypatch.setattr(rollout, "release", release_late)
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: changed and not server.publisher.rollouts_in_progress())
        first, second = gateway.versions_sent(*ROUTES)
        assert first != second
        assert b"renamed" in gateway.client.bodies[ROUTES]


async def test_unrelated_change_does_not_delay_first_release(fleet_db, server, drive, until, monkeypatch, database):
    release, changed = rollout.release, []

    async def release_late(*given):
        if not changed:
            changed.append(await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.9"))
        released = await release(*given)
        changed.append(len(released))
        return released

    monkeypatch.setattr(rollout, "release", release_late)
    async with drive(server, fleet_db.identity):
        await until(lambda: changed and not server.publisher.rollouts_in_progress())
        assert changed[1] == 1


# -- stored state -----------------------------------------------------------------------------------------------------


async def test_release_is_one_revision_with_all_resources(fleet_db, server, gateways, until, database):
    async with gateways(server, 3) as proxies:
        before = await worlds.current_revision(database)
        await fleet_db.add_pool("jp")
        await until(lambda: holds(proxies, "jp", fleet_db))
        await until(lambda: not server.publisher.rollouts_in_progress())
        assert await worlds.current_revision(database) == before + 2
        async with database.session() as session:
            rows = (await session.execute(select(AcceptedRow))).scalars().all()
        kept = {(row.type_url, row.name): (row.version, row.body) for row in rows if row.group == key_of(fleet_db)}
        client = proxies[0].client
        for type_url in (names.CLUSTER, names.EXTENSION, names.LISTENER, names.ROUTE):
            for name, version in client.versions[type_url].items():
                assert kept.pop((type_url, name)) == (version, client.bodies[type_url, name])
        assert kept == {}


async def test_removed_resource_leaves_accepted_versions(fleet_db, server, gateways, until, database):
    async with gateways(server, 2) as proxies:
        await fleet_db.add_pool("jp")
        await until(lambda: holds(proxies, "jp", fleet_db))
        await until(lambda: not server.publisher.rollouts_in_progress())
        cluster = fleet_db.cluster("jp")
        await fleet_db.remove(fleet_db.exits["jp"], fleet_db.pools["jp"])
        await until(lambda: all(cluster not in each.client.held(names.CLUSTER) for each in proxies))
        await until(lambda: not server.publisher.rollouts_in_progress())
        async with database.session() as session:
            assert cluster not in (await session.execute(select(AcceptedRow.name))).scalars().all()


async def test_concurrent_releases_make_one_revision(fleet_db, server, serve, gateways, until, database):
    """Releasing a change-set twice would make two revisions."""
    async with serve() as other, gateways(server, 2) as here, gateways(other, 2) as there:
        await until(lambda: not other.publisher.rollouts_in_progress())
        before = await worlds.current_revision(database)
        for _ in range(5):
            await fleet_db.change(fleet_db.pools["us"], name=f"name-{_}")
            await until(
                lambda: not server.publisher.rollouts_in_progress() and not other.publisher.rollouts_in_progress()
            )
        routes = [each.client.versions[names.ROUTE] for each in (*here, *there)]
        assert await worlds.current_revision(database) <= before + 10
        assert len(routes) == 4


async def test_late_release_changes_nothing(fleet_db, database, until):
    """The release was decided with a World in which another version was accepted."""
    key = ResourceKey(key_of(fleet_db), *ROUTES)

    async def release(version, revision):
        due = rollout.AcceptedChangeSet(key.group, version, {key: (version, version.encode())}, frozenset(), revision)
        async with write(database) as unit:
            return await rollout.release(unit, [due], datetime.now(UTC)), unit

    revision = await worlds.current_revision(database)
    released, unit = await release("newer", revision)
    assert released
    again, nothing = await release("newer", revision)
    assert (again, nothing.revision) == ([], None)
    late, nothing = await release("older", revision)
    assert (late, nothing.revision) == ([], None)
    assert (await worlds.load(database)).accepted[key].version == "newer"
    assert (await release("newest", unit.revision))[0]


async def test_rollout_waits_during_outage_and_continues(fleet_db, linked_database, serve, gateways, sent_to, until):
    database, link = linked_database
    async with serve(database) as server, gateways(server, 3) as proxies:
        for each in proxies:
            each.pause(names.ROUTE)
        await fleet_db.add_pool("jp")
        (canary,) = await sent_to(proxies, "jp")
        await link.cut()
        await canary.resume()
        await until(lambda: len(canary.versions_sent(*ROUTES)) == 2)
        await until(
            lambda: (
                canary.client.versions[names.ROUTE] != proxies[proxies.index(canary) - 1].client.versions[names.ROUTE]
            )
        )
        assert await sent_to(proxies, "jp") == [canary]
        await link.restore()
        for each in proxies:
            await each.resume()
        await until(lambda: holds(proxies, "jp", fleet_db))
        await until(lambda: not server.publisher.rollouts_in_progress())


async def test_change_at_start_of_outage_is_tried_afterwards(
    fleet_db, linked_database, serve, gateways, until, monkeypatch
):
    """Without PostgreSQL no canary can be claimed, so no proxy gets the change-set."""
    database, link = linked_database
    claim, cut = rollout.claim_canaries, asyncio.Event()

    async def fails_first(*given, **named):
        if not cut.is_set():
            cut.set()
            await link.cut()
        return await claim(*given, **named)

    async with serve(database) as server, gateways(server, 2) as proxies:
        monkeypatch.setattr(rollout, "claim_canaries", fails_first)
        await fleet_db.change(fleet_db.pools["us"], name="other")
        await asyncio.wait_for(cut.wait(), 60)
        assert all(len(each.versions_sent(*ROUTES)) == 1 for each in proxies)
        await link.restore()
        await until(lambda: all(len(each.versions_sent(*ROUTES)) == 2 for each in proxies))
