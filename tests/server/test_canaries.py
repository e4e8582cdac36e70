"""A change-set goes to canaries first, and to the others once they accepted it; whatever else happens meanwhile."""

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
from xds.server import rollout_controller as releaser_module
from xds.server.rollout_controller import CanaryPolicy, RolloutController
from xds.translate import names

pytestmark = pytest.mark.postgres

ROUTES = (names.ROUTE, names.GATEWAY_ROUTES)


def key_of(plane) -> str:
    return f"gateway/{plane.fleet.id}"


@pytest.fixture
def gateways(plane, drive, until, has_all):
    """`async with gateways(server, 3) as […]`: so many gateways that hold everything, and nothing is rolled out."""

    @asynccontextmanager
    async def start(server, count):
        async with AsyncExitStack() as stack:
            identities = [await plane.add_gateway(f"gw-{uuid4()}") for _ in range(count)]
            await until(lambda: all(each.proxy_id in server.publisher.world.proxies for each in identities))
            some = [await stack.enter_async_context(drive(server, identity)) for identity in identities]
            await until(lambda: all(has_all(len(plane.pools))(each.client) for each in some))
            await until(lambda: not server.publisher.rolling_out())
            yield some

    return start


@pytest.fixture
def sent_to(plane, until):
    """`await sent_to(gateways, "jp")`: those that were sent a pool's cluster, once there are some."""

    async def ask(some, country, *, count=1):
        cluster = plane.cluster(country)
        await until(lambda: sum(each.was_sent(names.CLUSTER, cluster) for each in some) >= count)
        return [each for each in some if each.was_sent(names.CLUSTER, cluster)]

    return ask


@pytest.fixture
def news_reach(plane, until):
    """`await news_reach(gateways)`: an exit moves, which all are told: whatever was to be sent before that was."""
    numbers = iter(range(10, 250))

    async def tell(some):
        before = {each: each.client.versions[names.ENDPOINT].get(plane.cluster("us")) for each in some}
        await plane.change(plane.exits["us"], endpoint=f"198.51.100.{next(numbers)}")
        await until(
            lambda: all(
                each.client.versions[names.ENDPOINT].get(plane.cluster("us")) != version
                for each, version in before.items()
            )
        )

    return tell


def holds(some, country, plane) -> bool:
    return all(plane.cluster(country) in each.client.held(names.CLUSTER) for each in some)


async def test_a_new_pool_goes_to_one_of_three_gateways_and_to_the_others_after_its_ack_only(
    plane, server, gateways, sent_to, news_reach, until, has_all
):
    async with gateways(server, 3) as some:
        for each in some:
            each.pause(names.CLUSTER, names.ROUTE)
        await plane.add_pool("jp")
        (canary,) = await sent_to(some, "jp")
        others = [each for each in some if each is not canary]
        await news_reach(some)
        assert not any(each.was_sent(names.CLUSTER, plane.cluster("jp")) for each in others)

        routes = len(canary.client.responses)
        canary.paused.discard(names.CLUSTER)
        await canary.client.accept(canary.waiting.pop())
        await until(lambda: canary.waiting)  # of the set, the routes are left
        assert canary.waiting[0].type_url == names.ROUTE
        assert len(canary.client.responses) > routes
        await news_reach(some)
        assert not any(each.was_sent(names.CLUSTER, plane.cluster("jp")) for each in others)

        for each in [canary, *others]:
            await each.resume()
        await until(lambda: all(has_all(3)(each.client) for each in some))


@pytest.mark.parametrize(("share", "count"), [(0.5, 3), (0.34, 3), (0.01, 1), (0.99, 6)])
async def test_the_share_says_how_many_try_it(plane, serve, gateways, sent_to, news_reach, until, share, count):
    async with serve(canary=CanaryPolicy(share=share)) as server, gateways(server, 6) as some:
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        canaries = await sent_to(some, "jp", count=count)
        await news_reach(some)
        assert len(await sent_to(some, "jp")) == count
        for each in canaries:
            await each.resume()
        for each in some:
            await each.resume()
        await until(lambda: holds(some, "jp", plane))


async def test_as_long_as_one_of_several_canaries_has_not_accepted_the_others_wait(
    plane, serve, gateways, sent_to, news_reach, until
):
    async with serve(canary=CanaryPolicy(share=0.5)) as server, gateways(server, 4) as some:
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        first, second = await sent_to(some, "jp", count=2)
        await first.resume()
        await until(lambda: first.client.versions[names.ROUTE] != second.client.versions[names.ROUTE])
        await news_reach(some)
        assert len(await sent_to(some, "jp")) == 2
        await second.resume()
        assert len(await sent_to(some, "jp", count=4)) == 4


async def test_a_share_of_all_tries_nothing(plane, serve, gateways, sent_to):
    async with serve(canary=CanaryPolicy(share=1)) as server, gateways(server, 3) as some:
        for each in some:
            each.pause(names.CLUSTER)
        await plane.add_pool("jp")
        assert len(await sent_to(some, "jp", count=3)) == 3


async def test_endpoints_wait_for_no_canary(plane, server, gateways, news_reach, sent_to):
    async with gateways(server, 3) as some:
        for each in some:
            each.pause(names.CLUSTER)
        await plane.add_pool("jp")
        await sent_to(some, "jp")
        await news_reach(some)


@pytest.fixture
def now_s(monkeypatch) -> list[float]:
    """`now_s[0] += 61`: the time that rollouts go by. It stands until a test moves it, and is looked at all the time."""
    now = [1000.0]
    monkeypatch.setattr(releaser_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(releaser_module, "_LOOK_EVERY_S", 0.02)
    return now


@pytest.fixture
def looked(monkeypatch, until):
    """`await looked()`: once the releaser has looked at everything, from now on."""
    looks = []
    look = RolloutController._look

    async def counted(releaser):
        await look(releaser)
        looks.append(releaser)

    monkeypatch.setattr(RolloutController, "_look", counted)

    async def wait() -> None:
        before = len(looks)
        await until(lambda: len(looks) >= before + 3)

    return wait


async def test_the_others_are_given_it_when_it_has_soaked_and_not_before(
    plane, serve, gateways, sent_to, until, monkeypatch
):
    soak_s = 0.3
    async with serve(canary=CanaryPolicy(soak_s=soak_s)) as server, gateways(server, 2) as some:
        monkeypatch.setattr(releaser_module, "_LOOK_EVERY_S", 600)  # it is not waited for the next look
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        (canary,) = await sent_to(some, "jp")
        accepted_at = time.monotonic()
        await canary.resume()
        await sent_to(some, "jp", count=2)
        assert time.monotonic() - accepted_at >= soak_s


async def test_what_changes_while_it_soaks_soaks_anew(plane, serve, gateways, sent_to, until, now_s, looked):
    """What the others are given is what the canary had for as long."""
    async with serve(canary=CanaryPolicy(soak_s=60)) as server, gateways(server, 2) as some:
        now_s[0] += 60  # the first configuration has soaked
        await plane.add_pool("jp")
        (canary,) = await sent_to(some, "jp")
        await until(lambda: len(canary.versions_sent(*ROUTES)) == 2)
        await looked()
        now_s[0] += 40
        await plane.add_pool("gb")
        await until(lambda: len(canary.versions_sent(*ROUTES)) == 3 and holds([canary], "gb", plane))
        await looked()
        now_s[0] += 40
        await looked()
        assert await sent_to(some, "jp") == [canary]
        now_s[0] += 21
        await sent_to(some, "jp", count=2)
        (other,) = [each for each in some if each is not canary]
        await until(lambda: other.client.versions == canary.client.versions)
        assert holds([other], "gb", plane)
        assert len(other.versions_sent(*ROUTES)) == 2  # the first, and both pools together


async def test_a_canary_that_goes_hands_over(plane, server, gateways, sent_to, until):
    async with gateways(server, 3) as some:
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        (canary,) = await sent_to(some, "jp")
        canary.client.call.cancel()
        others = [each for each in some if each is not canary]
        (second,) = await sent_to(others, "jp")
        await second.resume()
        await sent_to(others, "jp", count=2)


async def test_a_canary_that_goes_and_comes_back_to_another_replica_holds_nothing_up(
    plane, server, serve, gateways, sent_to, until, has_all, drive
):
    async with serve() as other, gateways(server, 1) as some, gateways(other, 2) as elsewhere:
        some[0].pause(names.ROUTE)
        for each in elsewhere:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        (canary,) = await sent_to([*some, *elsewhere], "jp")
        home, away = (server, other) if canary in some else (other, server)
        canary.client.call.cancel()
        await until(lambda: canary.id not in home.publisher.proxies_of(key_of(plane)))
        async with drive(away, canary.identity) as again:
            for each in (*some, *elsewhere):
                await each.resume()
            await until(lambda: has_all(3)(again.client))
            left = [each for each in (*some, *elsewhere) if each is not canary]
            await until(lambda: holds(left, "jp", plane))


async def test_when_all_gateways_of_the_canarys_replica_are_gone_another_replica_goes_on(
    plane, server, serve, gateways, sent_to, until
):
    async with serve() as other, gateways(server, 1) as here, gateways(other, 1) as there:
        some = [*here, *there]
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        (canary,) = await sent_to(some, "jp")
        (left,) = [each for each in some if each is not canary]
        canary.client.call.cancel()
        await left.resume()
        await until(lambda: holds([left], "jp", plane))


async def test_a_canary_that_stays_silent_hands_over(plane, serve, gateways, sent_to, until, now_s, looked):
    async with serve(canary=CanaryPolicy(patience_s=60)) as server, gateways(server, 3) as some:
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        (silent,) = await sent_to(some, "jp")
        await looked()
        assert await sent_to(some, "jp") == [silent]
        now_s[0] += 61
        others = [each for each in some if each is not silent]
        for each in others:
            await each.resume()
        await until(lambda: holds(others, "jp", plane))
        await silent.resume()
        await until(lambda: silent.client.versions == others[0].client.versions)


async def test_a_group_of_slow_gateways_is_not_given_up(plane, serve, gateways, sent_to, until, now_s):
    """All of them took too long once; then they are asked again."""
    async with serve(canary=CanaryPolicy(patience_s=60)) as server, gateways(server, 2) as some:
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        (first,) = await sent_to(some, "jp")
        now_s[0] += 61
        await sent_to(some, "jp", count=2)
        (second,) = [each for each in some if each is not first]
        await until(lambda: server.publisher.canaries_of(key_of(plane)) == {second.id})
        now_s[0] += 61
        await until(lambda: server.publisher.canaries_of(key_of(plane)) == {first.id})
        for each in some:
            await each.resume()
        await until(lambda: holds(some, "jp", plane))
        await until(lambda: not server.publisher.rolling_out())


# -- replicas ----------------------------------------------------------------------------------------------------------


async def test_of_two_replicas_one_has_the_canary_and_the_other_waits_for_it(
    plane, server, serve, gateways, sent_to, news_reach, until
):
    async with serve() as other, gateways(server, 2) as here, gateways(other, 2) as there:
        some = [*here, *there]
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        (canary,) = await sent_to(some, "jp")
        await news_reach(some)
        assert await sent_to(some, "jp") == [canary]
        for each in some:
            await each.resume()
        await until(lambda: holds(some, "jp", plane))


async def test_with_a_share_each_replica_has_canaries_and_all_of_them_must_accept(
    plane, serve, gateways, sent_to, news_reach, until, monkeypatch, database
):
    monkeypatch.setattr(recorder_module, "_BEAT_EVERY_S", 0.2)
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
        some = [*here, *there]
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        canaries = await sent_to(some, "jp", count=2)
        assert {each in here for each in canaries} == {True, False}
        first, second = canaries
        await first.resume()
        await news_reach(some)
        monkeypatch.setattr(rollout, "release", counted)
        beats = await _beats(database)

        async def later():
            return await _beats(database) > beats + timedelta(seconds=1.5)

        await until(later)
        assert len(await sent_to(some, "jp")) == 2
        assert len(released) < 10  # the one that waits for the other does not ask without end
        await second.resume()
        await until(lambda: first.client.versions[names.ROUTE] == second.client.versions[names.ROUTE])
        await sent_to(some, "jp", count=4)


async def _beats(database):
    async with database.session() as session:
        return min((await session.execute(select(ReplicaRow.seen_at))).scalars())


async def test_the_canary_of_a_replica_that_died_holds_nothing_up(plane, server, gateways, sent_to, until, database):
    async with gateways(server, 2) as some:
        async with database.session() as session:
            dead = uuid4()
            long_ago = datetime.now(UTC) - timedelta(minutes=1)
            session.add(ReplicaRow(id=dead, revision=1, seen_at=long_ago))
            session.add(CanaryRow(group=key_of(plane), proxy_id=plane.gateway.id, replica=dead))
        await plane.add_pool("jp")
        await until(lambda: holds(some, "jp", plane))


async def test_a_rollout_goes_on_where_a_replica_that_ended_left_it(
    plane, server, serve, gateways, sent_to, until, drive
):
    """The canary's replica ends; the change is tried again at another one."""
    async with serve() as stays, gateways(stays, 1) as left:
        async with serve() as ends, gateways(ends, 1) as there:
            for each in (*left, *there):
                each.pause(names.ROUTE)
            left[0].client.responses.clear()
            await plane.add_pool("jp")
            await sent_to([*left, *there], "jp")
        await left[0].resume()
        await until(lambda: holds(left, "jp", plane))


# -- what is stored ----------------------------------------------------------------------------------------------------


async def test_a_release_is_one_revision_with_all_that_belongs_to_it(plane, server, gateways, until, database):
    async with gateways(server, 3) as some:
        before = await worlds.current_revision(database)
        await plane.add_pool("jp")
        await until(lambda: holds(some, "jp", plane))
        await until(lambda: not server.publisher.rolling_out())
        assert await worlds.current_revision(database) == before + 2
        async with database.session() as session:
            rows = (await session.execute(select(AcceptedRow))).scalars().all()
        kept = {(row.type_url, row.name): (row.version, row.body) for row in rows if row.group == key_of(plane)}
        client = some[0].client
        for type_url in (names.CLUSTER, names.EXTENSION, names.LISTENER, names.ROUTE):
            for name, version in client.versions[type_url].items():
                assert kept.pop((type_url, name)) == (version, client.bodies[type_url, name])
        assert kept == {}


async def test_what_goes_is_not_kept_any_more(plane, server, gateways, until, database):
    async with gateways(server, 2) as some:
        await plane.add_pool("jp")
        await until(lambda: holds(some, "jp", plane))
        await until(lambda: not server.publisher.rolling_out())
        cluster = plane.cluster("jp")
        await plane.remove(plane.exits["jp"], plane.pools["jp"])
        await until(lambda: all(cluster not in each.client.held(names.CLUSTER) for each in some))
        await until(lambda: not server.publisher.rolling_out())
        async with database.session() as session:
            assert cluster not in (await session.execute(select(AcceptedRow.name))).scalars().all()


async def test_two_replicas_that_release_at_once_make_one_revision(plane, server, serve, gateways, until, database):
    """What is released twice would be two revisions, and each of them news for all replicas."""
    async with serve() as other, gateways(server, 2) as here, gateways(other, 2) as there:
        await until(lambda: not other.publisher.rolling_out())
        before = await worlds.current_revision(database)
        for _ in range(5):
            await plane.change(plane.pools["us"], name=f"name-{_}")
            await until(lambda: not server.publisher.rolling_out() and not other.publisher.rolling_out())
        routes = [each.client.versions[names.ROUTE] for each in (*here, *there)]
        assert await worlds.current_revision(database) <= before + 10
        assert len(routes) == 4


async def test_a_release_that_comes_too_late_changes_nothing(plane, database, until):
    """It was judged by a World in which what the group is settled at was something else."""
    key = ResourceKey(key_of(plane), *ROUTES)

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


async def test_while_postgresql_is_away_a_rollout_waits_and_then_goes_on(plane, wired, serve, gateways, sent_to, until):
    database, wire = wired
    async with serve(database) as server, gateways(server, 3) as some:
        for each in some:
            each.pause(names.ROUTE)
        await plane.add_pool("jp")
        (canary,) = await sent_to(some, "jp")
        await wire.cut()
        await canary.resume()
        await until(lambda: len(canary.versions_sent(*ROUTES)) == 2)
        await until(
            lambda: canary.client.versions[names.ROUTE] != some[some.index(canary) - 1].client.versions[names.ROUTE]
        )
        assert await sent_to(some, "jp") == [canary]
        await wire.mend()
        for each in some:
            await each.resume()
        await until(lambda: holds(some, "jp", plane))
        await until(lambda: not server.publisher.rolling_out())


async def test_a_change_that_comes_while_postgresql_goes_is_tried_when_it_is_back(
    plane, wired, serve, gateways, until, monkeypatch
):
    """No canary can be claimed then, so nobody is given it."""
    database, wire = wired
    claim, cut = rollout.claim_canaries, asyncio.Event()

    async def fails_first(*given, **named):
        if not cut.is_set():
            cut.set()
            await wire.cut()
        return await claim(*given, **named)

    async with serve(database) as server, gateways(server, 2) as some:
        monkeypatch.setattr(rollout, "claim_canaries", fails_first)
        await plane.change(plane.pools["us"], name="other")
        await asyncio.wait_for(cut.wait(), 60)
        assert all(len(each.versions_sent(*ROUTES)) == 1 for each in some)
        await wire.mend()
        await until(lambda: all(len(each.versions_sent(*ROUTES)) == 2 for each in some))
