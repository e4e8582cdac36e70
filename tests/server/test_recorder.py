"""Recording of ACKs and NACKs: a rejected version goes to no other proxy, and the last accepted version stays."""

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


def routes_key(fleet_db) -> ResourceKey:
    return ResourceKey(f"gateway/{fleet_db.fleet.id}", names.ROUTE, names.GATEWAY_ROUTES)


@pytest.fixture
def accepted(database):
    """`await accepted()` returns the accepted versions by type and name."""

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
    """Read the next response of a type; accept others before it."""
    while (response := await client.read()).type_url != type_url:
        await client.accept(response)
    return response


async def test_accepted_revision_is_sync_status(fleet_db, server, connect, has_all, synced, until, database):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await until(lambda: not server.publisher.rollouts_in_progress())
        revision = await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await client.until(lambda it: it.responses[-1].system_version_info == str(revision))

        async def is_known():
            return (await synced(fleet_db.gateway.id)).get(names.ENDPOINT, (0,))[0] == revision

        await until(is_known)
        rows = await synced(fleet_db.gateway.id)
        assert set(rows) == {names.CLUSTER, names.ENDPOINT, names.EXTENSION, names.LISTENER, names.ROUTE}
        assert {(ok, detail) for _, ok, detail in rows.values()} == {(True, "")}
        assert await worlds.current_revision(database) == revision  # endpoints are not rolled out: no revision


async def test_accepted_bytes_are_stored_except_endpoints(fleet_db, server, connect, has_all, accepted, until):
    async with connect(server, fleet_db.identity) as client:
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
async def settled(fleet_db, server, connect, has_all, accepted, until):
    """A gateway that has accepted everything, with its versions stored."""
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))

        async def routes_are_kept():
            return (names.ROUTE, names.GATEWAY_ROUTES) in await accepted()

        await until(routes_are_kept)
        yield client


async def test_version_that_only_gateway_rejects_is_withheld(
    fleet_db, server, settled, connect, has_all, rejections, synced, until
):
    good = settled.versions[names.ROUTE][names.GATEWAY_ROUTES]
    revision = await fleet_db.change(fleet_db.pools["us"], name="bad")
    refused = await next_of(settled, names.ROUTE)
    await settled.reject(refused, "route configuration gateway_routes: no thanks")
    await until(rejections)
    (row,) = await rejections()
    assert (row.proxy_id, row.name, row.detail) == (
        fleet_db.gateway.id,
        names.GATEWAY_ROUTES,
        "route configuration gateway_routes: no thanks",
    )
    assert row.version == refused.resources[0].version != good
    assert (await synced(fleet_db.gateway.id))[names.ROUTE] == (
        revision,
        False,
        "route configuration gateway_routes: no thanks",
    )
    await until(lambda: (routes_key(fleet_db), row.version) in server.publisher.world.rejections_of)
    async with connect(server, fleet_db.identity) as again:
        await again.start()
        await again.until(has_all(2))
        assert again.versions[names.ROUTE] == {names.GATEWAY_ROUTES: good}
        assert again.bodies[names.ROUTE, names.GATEWAY_ROUTES] == settled.bodies[names.ROUTE, names.GATEWAY_ROUTES]
    await fleet_db.change(fleet_db.pools["us"], name="fixed")
    await settled.until(lambda it: b"fixed" in it.bodies[names.ROUTE, names.GATEWAY_ROUTES])


async def test_rejected_version_is_withheld_by_every_replica(
    fleet_db, server, settled, serve, connect, has_all, rejections, until
):
    good = settled.versions[names.ROUTE][names.GATEWAY_ROUTES]
    await fleet_db.change(fleet_db.pools["us"], name="bad")
    await settled.reject(await next_of(settled, names.ROUTE), "no")
    await until(rejections)
    async with serve() as other, connect(other, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        assert client.versions[names.ROUTE] == {names.GATEWAY_ROUTES: good}


async def test_rejected_first_version_withholds_its_whole_change_set(
    fleet_db, server, connect, has_all, rejections, until
):
    async with connect(server, fleet_db.identity) as client, connect(server, fleet_db.identity) as newcomer:
        await client.start()
        await client.reject(await next_of(client, names.ROUTE), "no")
        await until(rejections)
        await until(lambda: server.publisher.world.rejections)
        await newcomer.start()
        await newcomer.until(lambda it: it.count(names.LISTENER))
        assert not newcomer.held(names.LISTENER) | newcomer.held(names.CLUSTER)
        await fleet_db.change(fleet_db.pools["us"], name="fixed")
        await newcomer.until(has_all(2))


async def test_rejected_endpoints_are_recorded_but_not_withheld(fleet_db, server, settled, synced, rejections, until):
    """An older list of endpoints would offer dead exits."""
    await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
    await settled.reject(await next_of(settled, names.ENDPOINT), "no")

    async def is_noted():
        return (await synced(fleet_db.gateway.id)).get(names.ENDPOINT, ())[1:] == (False, "no")

    await until(is_noted)
    assert await rejections() == []


async def test_only_resource_named_in_nack_is_withheld(fleet_db, server, connect, rejections, until):
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        response = await next_of(client, names.CLUSTER)
        assert len(response.resources) == 2
        await client.reject(response, f"Error adding/updating cluster(s) {fleet_db.cluster('us')}: no")
        await until(rejections)
        assert [row.name for row in await rejections()] == [fleet_db.cluster("us")]


@pytest.mark.parametrize("words", ["\0", "a\0b", "x" * 100_000, "\U0001f4a5", "caf\udcc3", ""])
async def test_any_error_message_is_stored(fleet_db, server, settled, rejections, until, words):
    """A lone surrogate stands for a byte that is not UTF-8."""
    await fleet_db.change(fleet_db.pools["us"], name="bad")
    await settled.reject(await next_of(settled, names.ROUTE), words)
    await until(rejections)
    (row,) = await rejections()
    assert row.detail[:4] == words.replace("\0", "\ufffd").replace("\udcc3", "\ufffd")[:4]
    await fleet_db.change(fleet_db.pools["us"], name="fixed")
    await settled.until(lambda it: b"fixed" in it.bodies[names.ROUTE, names.GATEWAY_ROUTES])


async def test_resources_of_one_exit_are_stored_in_its_overlay(fleet_db, server, connect, database, until):
    """Otherwise all exits of the pool would fall back to the source address of this one."""
    revision = await fleet_db.change(fleet_db.exits["us"], egress_address="10.0.0.2")
    await until(lambda: server.publisher.world.revision == revision)
    async with connect(server, fleet_db.exit_identity("us")) as client:
        await client.start()
        await client.until(lambda it: it.held(names.ROUTE) and it.held(names.CLUSTER))

        async def owners():
            async with database.session() as session:
                rows = (await session.execute(select(AcceptedRow))).scalars()
                return {(row.group, row.type_url, row.name) for row in rows}

        async def all_kept():
            return len(await owners()) == 4

        await until(all_kept)
        own, shared = f"overlay/{fleet_db.exits['us'].id}", f"exit/{fleet_db.pools['us'].id}"
        assert await owners() == {
            (own, names.CLUSTER, names.TARGETS),
            (own, names.LISTENER, names.EXIT_LISTENER),
            (shared, names.ROUTE, names.EXIT_ROUTES),
            (shared, names.CLUSTER, names.TARGETS),  # belongs to the routes; this exit does not use it
        }


async def test_nack_of_outdated_resource_rejects_no_other_version(
    fleet_db, server, connect, accepted, rejections, until
):
    """The exit lost its source address while its cluster was in flight; now it shares its pool's cluster."""
    revision = await fleet_db.change(fleet_db.exits["us"], egress_address="10.0.0.2")
    await until(lambda: server.publisher.world.revision == revision)
    async with connect(server, fleet_db.exit_identity("us")) as client:
        await client.start()
        sent = await next_of(client, names.CLUSTER)
        revision = await fleet_db.change(fleet_db.exits["us"], egress_address=None)
        await until(lambda: server.publisher.world.revision == revision)
        await client.reject(sent, "no")
        await client.until(lambda it: it.count(names.CLUSTER) == 2 and it.held(names.ROUTE))
        wanted = client.versions[names.CLUSTER][names.TARGETS]

        async def is_kept():
            return (await accepted()).get((names.CLUSTER, names.TARGETS)) == wanted

        await until(is_kept)  # so the earlier answer is stored too
        assert await rejections() == []


async def test_failed_store_is_retried(fleet_db, server, connect, has_all, synced, until, monkeypatch):
    failed = asyncio.Event()
    record = sync.record

    async def fails_once(*args):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("deadlock detected")
        await record(*args)

    monkeypatch.setattr(sync, "record", fails_once)
    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))

        async def all_types():
            return len(await synced(fleet_db.gateway.id)) == 5

        await until(all_types)
        assert failed.is_set()


async def test_replica_counted_as_dead_records_its_streams_again(
    fleet_db, server, connect, has_all, until, monkeypatch
):
    monkeypatch.setattr(recorder_module, "_HEARTBEAT_EVERY_S", 0.1)

    async def connected():
        async with fleet_db.database.session() as session:
            return [row.replica is not None for row in await sync.of_proxy(session, fleet_db.gateway.id)]

    async def connected_again():
        return await connected() == [True] * 5

    async with connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await until(connected_again)
        async with fleet_db.database.session() as session:
            await session.execute(update(ReplicaRow).values(seen_at=datetime(2026, 1, 1, tzinfo=UTC)))
            await retention.reap_replicas(session)
            assert not any(row.replica for row in await sync.of_proxy(session, fleet_db.gateway.id))
        await until(connected_again)
