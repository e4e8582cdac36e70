"""A state-of-the-world stream that resumes: a replica knows the clusters that its client may hold, and what was committed."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from model.change_feed import ChangeFeed
from model.database import DatabaseUnreachable
from model.entities import Accepted, Pool, Proxy, ResourceKey, Role
from model.identity import Identity
from model.repositories import worlds
from model.world import Change, Kind, World, put
from xds.protocol.sotw import hash_resources
from xds.server import world_watcher
from xds.server.publisher import Publisher
from xds.server.removed_clusters import KEPT_S, MAX_KEPT, RemovedClusters
from xds.server.world_watcher import Debounce, WorldWatcher
from xds.snapshot.rollout import build
from xds.translate import names
from xds.translate.scopes import GatewayGroup

FLEET, CANARY, OTHER = (UUID(int=number) for number in range(1, 4))
GROUP = GatewayGroup(FLEET).key
OLD, NEW = (Pool(UUID(int=number), FLEET, f"pool-{number}", "us") for number in (8, 9))


# -- removed clusters --------------------------------------------------------------------------------------------------


def accepted(name: str, group: str = GROUP, type_url: str = names.CLUSTER) -> Accepted:
    return Accepted(ResourceKey(group, type_url, name), "v1", name.encode())


def removed(*gone: Accepted, now: float = 0.0, into: RemovedClusters | None = None) -> RemovedClusters:
    """Record that these were removed."""
    clusters = RemovedClusters() if into is None else into
    old = World().changed(1, map(put, gone))
    clusters.record(old, World(), [each.key for each in gone], now)
    return clusters


def test_removed_clusters_are_kept_by_group():
    mine, other, route = accepted("a"), accepted("b", "elsewhere"), accepted("r", type_url=names.ROUTE)
    clusters = removed(mine, other, route)
    assert [*clusters.of(GROUP, 0)] == [mine]
    assert [*clusters.of("elsewhere", 0)] == [other]


def test_removed_clusters_are_forgotten_in_time():
    clusters = removed(accepted("a"))
    removed(accepted("b"), now=10, into=clusters)
    assert [each.key.name for each in clusters.of(GROUP, KEPT_S - 1)] == ["a", "b"]
    assert [each.key.name for each in clusters.of(GROUP, KEPT_S)] == ["b"]


def test_newest_removed_clusters_are_kept():
    clusters = removed(*(accepted(f"c{number}") for number in range(MAX_KEPT)))
    removed(accepted("c0"), accepted("last"), into=clusters)
    kept = [each.key.name for each in clusters.of(GROUP, 0)]
    assert kept == [*(f"c{number}" for number in range(2, MAX_KEPT)), "c0", "last"]


# -- clusters that a client may hold -----------------------------------------------------------------------------------


class PublishedFleet:
    """A publisher whose fleet has two gateways, one of them the canary, and accepted OLD; and what they are given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.publisher = Publisher(clock=lambda: self.now)
        gateways = [Proxy(each, FLEET, str(each), Role.GATEWAY) for each in (CANARY, OTHER)]
        self.publisher.start(World().changed(1, map(put, [*gateways, OLD])))
        for each in gateways:
            self.publisher.open(Identity(FLEET, Role.GATEWAY, each.id))
        self.release()
        self.publisher.set_canaries(GROUP, frozenset({CANARY}))

    def publish(self, *changes: Change) -> None:
        world = self.publisher.world
        self.publisher.publish(world.changed(world.revision + 1, changes), changes)

    def release(self) -> None:
        """Accept everything that is wanted."""
        world = self.publisher.world
        keys = {
            ResourceKey(GROUP, each.type_url, each.name): resource
            for change_set in build(GatewayGroup(FLEET), world).change_sets
            for each, resource in change_set.wanted.items()
        }
        self.publish(
            *(
                put(Accepted(key, resource.version, resource.body)) if resource else Change(Kind.ACCEPTED, key, None)
                for key, resource in keys.items()
            )
        )

    def view(self, proxy_id: UUID):
        (pending,) = self.publisher.streams_of(proxy_id)
        return pending.view

    def version(self, proxy_id: UUID) -> str:
        """Return the version of the full state of clusters that a gateway is given."""
        view = self.view(proxy_id)
        return hash_resources(view.get(names.CLUSTER, name) for name in view.names(names.CLUSTER))

    def former(self, proxy_id: UUID, version: str = "unknown") -> set[str]:
        return {each.name for each in self.publisher.former_clusters(self.view(proxy_id), version)}


def name_of(pool: Pool) -> str:
    return names.pool_cluster(pool)


@pytest.fixture
def fleet() -> PublishedFleet:
    return PublishedFleet()


def test_client_may_hold_cluster_removed_lately(fleet):
    assert fleet.former(OTHER) == set()
    fleet.publish(put(NEW), Change(Kind.POOL, OLD.id, None))
    fleet.release()
    assert fleet.former(OTHER) == fleet.former(CANARY) == {name_of(OLD)}
    fleet.now = KEPT_S
    assert fleet.former(OTHER) == set()


def test_client_may_hold_cluster_whose_removal_a_canary_tries(fleet):
    fleet.publish(put(NEW), Change(Kind.POOL, OLD.id, None))
    assert name_of(OLD) in fleet.former(CANARY)
    assert fleet.former(OTHER) == set()


def test_cluster_removed_before_full_load_may_be_held(fleet):
    fleet.publisher.start(World().changed(7, map(put, fleet.publisher.world.proxies.values())))
    assert fleet.former(OTHER) == {name_of(OLD)}


def test_only_canary_may_hold_cluster_that_is_tried(fleet):
    fleet.publish(put(NEW))
    tried = fleet.version(CANARY)
    fleet.publisher.set_canaries(GROUP, frozenset())
    assert fleet.former(CANARY, tried) == {name_of(NEW)}
    assert fleet.former(OTHER) == set(), "an untried cluster goes to no other proxy"


def test_canary_that_has_old_and_new_cluster_is_known(fleet):
    before = fleet.view(OTHER)
    fleet.publish(put(NEW), Change(Kind.POOL, OLD.id, None))
    tried = fleet.view(CANARY)
    both = [before.get(names.CLUSTER, name_of(OLD)), tried.get(names.CLUSTER, name_of(NEW))]
    fleet.publisher.set_canaries(GROUP, frozenset())
    assert fleet.former(CANARY, hash_resources(both)) == {name_of(NEW)}


# -- a replica that is behind ------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """The revision of each read of the change log."""
    done: list[int] = []
    follow = worlds.follow

    async def counted(database, world):
        done.append(world.revision)
        return await follow(database, world)

    monkeypatch.setattr(worlds, "follow", counted)
    return done


@pytest.fixture
def deaf(monkeypatch) -> None:
    """Replicas receive no NOTIFY, and do not poll while the test runs."""

    class DeafFeed(ChangeFeed):
        def __init__(self, database):
            super().__init__(database, poll_s=3600)

        async def run(self):
            await asyncio.Event().wait()

    monkeypatch.setattr("xds.server.server.ChangeFeed", DeafFeed)


@pytest.mark.postgres
async def test_replica_behind_reads_changes_before_full_state(deaf, fleet_db, serve, dial, speak_sotw):
    async with serve() as server, dial(server, fleet_db.identity) as channel:
        await fleet_db.add_pool("jp")
        client = speak_sotw(channel)
        await client.ask(names.CLUSTER, version_info="of another replica")
        assert len((await client.read()).resources) == 3


@pytest.mark.postgres
async def test_delta_stream_does_not_wait_for_changes(deaf, fleet_db, serve, connect, has_all, reads):
    async with serve() as server, connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        assert reads == []


@pytest.mark.postgres
async def test_removed_cluster_is_in_first_full_state(fleet_db, server, drive, until, dial, speak_sotw, has_all):
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client) and not server.publisher.rollouts_in_progress())
        await fleet_db.remove(fleet_db.exits["de"], fleet_db.pools["de"])
        await until(
            lambda: (
                fleet_db.cluster("de") not in gateway.client.held(names.CLUSTER)
                and not server.publisher.rollouts_in_progress()
            )
        )
    async with dial(server, fleet_db.identity) as channel:
        client = speak_sotw(channel)
        await client.ask(names.CLUSTER, version_info="older")
        first = await client.read()
        assert len(first.resources) == 2
        await client.ask(names.CLUSTER, version_info=first.version_info, response_nonce=first.nonce)
        assert len((await client.read()).resources) == 1


class StubFeed:
    """A change feed without NOTIFY."""

    def __init__(self) -> None:
        self._hint = asyncio.Event()

    def wake(self) -> None:
        self._hint.set()

    async def wait(self, _: float | None = None) -> bool:
        await self._hint.wait()
        self._hint.clear()
        return True


class StubDatabase:
    """Reads of a World that a test counts, holds and lets fail."""

    def __init__(self, monkeypatch) -> None:
        self.reads = 0
        self.release = asyncio.Event()
        self.release.set()
        self.unreachable = False
        monkeypatch.setattr(worlds, "load", self._load)
        monkeypatch.setattr(worlds, "follow", self._catch_up)

    async def _load(self, _) -> World:
        return World().changed(1, ())

    async def _catch_up(self, _, world):
        self.reads += 1
        await self.release.wait()
        if self.unreachable:
            raise DatabaseUnreachable("no answer")
        return world, (), ()


@pytest.fixture
async def watched(monkeypatch, until):
    """A watcher that runs, and its database."""
    database, publisher = StubDatabase(monkeypatch), Publisher()
    watcher = WorldWatcher(database, StubFeed(), publisher, Debounce(floor_s=0))
    task = asyncio.create_task(watcher.run())
    await until(lambda: publisher.world is not None)
    yield watcher, database
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_herd_of_streams_shares_reads(watched):
    watcher, database = watched
    await asyncio.gather(*(watcher.catch_up() for _ in range(1_000)))
    assert database.reads <= 2


async def test_stream_that_comes_during_a_read_waits_for_the_next(watched, until):
    watcher, database = watched
    database.release.clear()
    first = asyncio.create_task(watcher.catch_up())
    await until(lambda: database.reads == 1)
    second = asyncio.create_task(watcher.catch_up())
    await asyncio.sleep(0)
    database.release.set()
    await asyncio.gather(first, second)
    assert database.reads == 2


async def test_streams_do_not_wait_for_unreachable_database(watched):
    watcher, database = watched
    database.unreachable = True
    await watcher.catch_up()
    reads = database.reads
    await watcher.catch_up()
    assert database.reads == reads


async def test_streams_wait_a_bounded_time_for_database(watched, monkeypatch):
    watcher, database = watched
    monkeypatch.setattr(world_watcher, "_CATCH_UP_S", 0.01)
    database.release.clear()
    await watcher.catch_up()
    assert not database.release.is_set()
