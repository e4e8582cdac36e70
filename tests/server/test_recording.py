"""What proxies answer is written down; what one refused goes to no other, and the last accepted version stays."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, update

from model.entities import ResourceKey
from model.repositories import retention, rollout, sync, worlds
from model.tables import AcceptedRow, ReplicaRow
from xds.server import recorder as recorder_module
from xds.translate import names

pytestmark = pytest.mark.postgres


def routes_key(plane) -> ResourceKey:
    return ResourceKey(f"gateway/{plane.fleet.id}", names.ROUTE, names.GATEWAY_ROUTES)


@pytest.fixture
def accepted(database):
    """`await accepted()`: the accepted versions by type and name."""

    async def read() -> dict[tuple[str, str], str]:
        async with database.session() as session:
            rows = (await session.execute(select(AcceptedRow))).scalars()
            return {(row.type_url, row.name): row.version for row in rows}

    return read


@pytest.fixture
def rejections(database):
    async def read(proxy_id=None):
        async with database.session() as session:
            return await rollout.rejections_by(session, proxy_id)

    return read


async def next_of(client, type_url):
    """The next response of a type; others are accepted on the way."""
    while (response := await client.read()).type_url != type_url:
        await client.accept(response)
    return response


async def test_what_a_proxy_accepted_is_its_sync_status_with_the_revision(
    plane, server, connect, has_all, synced, until, database
):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await until(lambda: not server.publisher.rolling_out())
        revision = await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        await client.until(lambda it: it.responses[-1].system_version_info == str(revision))

        async def is_known():
            return (await synced(plane.gateway.id)).get(names.ENDPOINT, (0,))[0] == revision

        await until(is_known)
        rows = await synced(plane.gateway.id)
        assert set(rows) == {names.CLUSTER, names.ENDPOINT, names.EXTENSION, names.LISTENER, names.ROUTE}
        assert {(ok, detail) for _, ok, detail in rows.values()} == {(True, "")}
        assert await worlds.current_revision(database) == revision  # endpoints are not rolled out: no revision


async def test_accepted_versions_are_kept_with_their_bytes_but_endpoints_are_not(
    plane, server, connect, has_all, accepted, until
):
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))

        async def all_kept():
            return len(await accepted()) == 5

        await until(all_kept)
        kept = await accepted()
        held = {
            (type_url, name): version for type_url, table in client.versions.items() for name, version in table.items()
        }
        assert kept == {key: version for key, version in held.items() if key[0] != names.ENDPOINT}


@pytest.fixture
async def settled(plane, server, connect, has_all, accepted, until):
    """A gateway that has accepted everything, and that is written down."""
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))

        async def routes_are_kept():
            return (names.ROUTE, names.GATEWAY_ROUTES) in await accepted()

        await until(routes_are_kept)
        yield client


async def test_a_refused_version_is_held_back_from_a_second_proxy(
    plane, server, settled, connect, has_all, rejections, synced, until
):
    second = await plane.add_gateway("gw-2")
    good = settled.versions[names.ROUTE][names.GATEWAY_ROUTES]
    revision = await plane.change(plane.pools["us"], name="bad")
    refused = await next_of(settled, names.ROUTE)
    await settled.reject(refused, "route configuration wishes: no thanks")
    await until(rejections)
    (row,) = await rejections()
    assert (row.proxy_id, row.name, row.detail) == (
        plane.gateway.id,
        names.GATEWAY_ROUTES,
        "route configuration wishes: no thanks",
    )
    assert row.version == refused.resources[0].version != good
    assert (await synced(plane.gateway.id))[names.ROUTE] == (
        revision,
        False,
        "route configuration wishes: no thanks",
    )
    await until(lambda: (routes_key(plane), row.version) in server.publisher.world.rejections)
    async with connect(server, second) as newcomer:
        await newcomer.start()
        await newcomer.until(has_all(2))
        assert newcomer.versions[names.ROUTE] == {names.GATEWAY_ROUTES: good}
        assert newcomer.bodies[names.ROUTE, names.GATEWAY_ROUTES] == settled.bodies[names.ROUTE, names.GATEWAY_ROUTES]
    await plane.change(plane.pools["us"], name="mended")
    await settled.until(lambda it: b"mended" in it.bodies[names.ROUTE, names.GATEWAY_ROUTES])


async def test_a_refused_version_is_held_back_after_a_restart_and_by_every_replica(
    plane, server, settled, serve, connect, has_all, rejections, until
):
    good = settled.versions[names.ROUTE][names.GATEWAY_ROUTES]
    await plane.change(plane.pools["us"], name="bad")
    await settled.reject(await next_of(settled, names.ROUTE), "no")
    await until(rejections)
    async with serve() as other, connect(other, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        assert client.versions[names.ROUTE] == {names.GATEWAY_ROUTES: good}


async def test_what_was_never_accepted_in_another_form_is_left_out_with_all_that_belongs_to_it(
    plane, server, connect, has_all, rejections, until
):
    second = await plane.add_gateway("gw-2")
    await until(lambda: second.proxy_id in server.publisher.world.proxies)
    async with connect(server, plane.identity) as client, connect(server, second) as newcomer:
        await client.start()
        await client.reject(await next_of(client, names.ROUTE), "no")
        await until(rejections)
        await until(lambda: server.publisher.world.rejections)
        await newcomer.start()
        await newcomer.until(lambda it: it.count(names.LISTENER))
        assert not newcomer.held(names.LISTENER) | newcomer.held(names.CLUSTER)
        await plane.change(plane.pools["us"], name="mended")
        await newcomer.until(has_all(2))


async def test_refused_endpoints_are_noted_and_held_back_from_nobody(plane, server, settled, synced, rejections, until):
    """An older list of endpoints would offer exits that are gone."""
    await plane.change(plane.exits["us"], endpoint="198.51.100.2")
    await settled.reject(await next_of(settled, names.ENDPOINT), "no")

    async def is_noted():
        return (await synced(plane.gateway.id)).get(names.ENDPOINT, ())[1:] == (False, "no")

    await until(is_noted)
    assert await rejections() == []


async def test_of_several_resources_only_the_one_that_is_named_is_held_back(plane, server, connect, rejections, until):
    async with connect(server, plane.identity) as client:
        await client.start()
        response = await next_of(client, names.CLUSTER)
        assert len(response.resources) == 2
        await client.reject(response, f"Error adding/updating cluster(s) {plane.cluster('us')}: no")
        await until(rejections)
        assert [row.name for row in await rejections()] == [plane.cluster("us")]


@pytest.mark.parametrize("words", ["\0", "a\0b", "x" * 100_000, "\U0001f4a5", ""])
async def test_whatever_a_proxy_says_is_stored_and_ends_nothing(plane, server, settled, rejections, until, words):
    await plane.change(plane.pools["us"], name="bad")
    await settled.reject(await next_of(settled, names.ROUTE), words)
    await until(rejections)
    (row,) = await rejections()
    assert row.detail[:3] == words.replace("\0", "\ufffd")[:3]
    await plane.change(plane.pools["us"], name="mended")
    await settled.until(lambda it: b"mended" in it.bodies[names.ROUTE, names.GATEWAY_ROUTES])


async def test_what_is_specific_to_one_exit_is_kept_as_its_own(plane, server, connect, database, until):
    """Its source address would be every exit's of the pool otherwise, if they ever had to fall back."""
    revision = await plane.change(plane.exits["us"], egress_address="10.0.0.2")
    await until(lambda: server.publisher.world.revision == revision)
    async with connect(server, plane.exit_identity("us")) as client:
        await client.start()
        await client.until(lambda it: it.held(names.ROUTE) and it.held(names.CLUSTER))

        async def owners():
            async with database.session() as session:
                rows = (await session.execute(select(AcceptedRow))).scalars()
                return {(row.group, row.type_url, row.name) for row in rows}

        async def all_kept():
            return len(await owners()) == 4

        await until(all_kept)
        own, shared = f"overlay/{plane.exits['us'].id}", f"exit/{plane.pools['us'].id}"
        assert await owners() == {
            (own, names.CLUSTER, names.TARGETS),
            (own, names.LISTENER, names.EXIT_LISTENER),
            (shared, names.ROUTE, names.EXIT_ROUTES),
            (shared, names.CLUSTER, names.TARGETS),  # which belongs to the routes, and which this exit does not use
        }


async def test_a_refusal_of_what_is_not_published_any_more_is_laid_to_nothing_else(
    plane, server, connect, accepted, rejections, until
):
    """The exit gave up its source address while its cluster was on the way; now it shares that of its pool."""
    revision = await plane.change(plane.exits["us"], egress_address="10.0.0.2")
    await until(lambda: server.publisher.world.revision == revision)
    async with connect(server, plane.exit_identity("us")) as client:
        await client.start()
        sent = await next_of(client, names.CLUSTER)
        revision = await plane.change(plane.exits["us"], egress_address=None)
        await until(lambda: server.publisher.world.revision == revision)
        await client.reject(sent, "no")
        await client.until(lambda it: it.count(names.CLUSTER) == 2 and it.held(names.ROUTE))
        wanted = client.versions[names.CLUSTER][names.TARGETS]

        async def is_kept():
            return (await accepted()).get((names.CLUSTER, names.TARGETS)) == wanted

        await until(is_kept)  # what was answered before that is written down, too
        assert await rejections() == []


async def test_a_failure_to_store_is_tried_again(plane, server, connect, has_all, synced, until, monkeypatch):
    failed = asyncio.Event()
    record = sync.record

    async def fails_once(*args):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("deadlock detected")
        await record(*args)

    monkeypatch.setattr(sync, "record", fails_once)
    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))

        async def all_types():
            return len(await synced(plane.gateway.id)) == 5

        await until(all_types)
        assert failed.is_set()


async def test_a_replica_that_was_held_to_be_dead_says_anew_which_streams_it_has(
    plane, server, connect, has_all, until, monkeypatch
):
    monkeypatch.setattr(recorder_module, "_BEAT_EVERY_S", 0.1)

    async def connected():
        async with plane.database.session() as session:
            return [row.replica is not None for row in await sync.of_proxy(session, plane.gateway.id)]

    async def connected_again():
        return await connected() == [True] * 5

    async with connect(server, plane.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await until(connected_again)
        async with plane.database.session() as session:
            await session.execute(update(ReplicaRow).values(seen_at=datetime(2026, 1, 1, tzinfo=UTC)))
            await retention.reap_replicas(session)
            assert not any(row.replica for row in await sync.of_proxy(session, plane.gateway.id))
        await until(connected_again)
