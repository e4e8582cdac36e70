"""Resources that no client subscribes to: they block no rollout, and no proxy counts as out of sync for them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from model.repositories import declared, rollout, sync, worlds
from model.tables import AcceptedRow, ListenerRow, RouteRow, ServerCertificateRow, UserRow
from model.unit_of_work import write
from xds.server.rollout_controller import CanaryPolicy
from xds.translate import names

pytestmark = pytest.mark.postgres

AT = datetime(2026, 1, 1, tzinfo=UTC)
ROUTES = (names.ROUTE, names.GATEWAY_ROUTES)
GROUPS = (names.EXTENSION, names.GROUPS_FILTER)
DENIED = {"deny": {"status": 403, "text": "no"}}


@pytest.fixture
def add(fleet_db):
    """`await add(row)` saves a declared row."""

    async def save(row):
        async with write(fleet_db.database) as unit:
            return await declared.save(unit, row)

    return save


@pytest.fixture
def staff(fleet_db, add):
    """`await staff("alice")` adds a user to a group that a route matches."""
    declared_once = []

    async def join(name):
        if not declared_once:
            match = {"groups": ["staff"]}
            row = RouteRow(fleet_id=fleet_db.fleet.id, name="r", position=1, match=match, action=DENIED, created_at=AT)
            declared_once.append(await add(row))
        await add(UserRow(fleet_id=fleet_db.fleet.id, name=name, group="staff", created_at=AT))

    return join


@pytest.fixture
def settled(fleet_db, server, until):
    """`await settled(*ROUTES)` waits until no rollout is in progress, and returns the accepted version of a resource."""

    async def read(*which):
        revision = await worlds.current_revision(fleet_db.database)
        await until(lambda: server.publisher.world.revision >= revision and not server.publisher.rollouts_in_progress())
        async with fleet_db.database.session() as session:
            row = await session.get(AcceptedRow, (f"gateway/{fleet_db.fleet.id}", *which))
        return row and row.version

    return read


@pytest.fixture
def certificate(fleet_db, add):
    """`await certificate("a")` adds a certificate that no listener uses."""

    async def make(name):
        row = ServerCertificateRow(
            fleet_id=fleet_db.fleet.id, name=name, chain=f"chain of {name}", key=f"key of {name}"
        )
        row.server_names, row.expires_at, row.created_at = [], AT, AT
        return await add(row)

    return make


async def test_resources_without_listener_are_accepted_untried(
    fleet_db, server, drive, until, staff, settled, add, has_all
):
    await fleet_db.remove(fleet_db.listener)
    second = await fleet_db.add_gateway("gw-2")
    await until(lambda: second.proxy_id in server.publisher.world.proxies)
    async with drive(server, fleet_db.identity) as one, drive(server, second) as two:
        await until(lambda: all(len(each.client.held(names.CLUSTER)) == 2 for each in (one, two)))
        routes, groups = await settled(*ROUTES), await settled(*GROUPS)
        assert routes
        assert groups
        await staff("alice")
        assert (await settled(*GROUPS), await settled(*ROUTES)) != (groups, routes)
        await fleet_db.add_pool("jp")  # clusters are tried as usual
        await until(lambda: all(len(each.client.held(names.CLUSTER)) == 3 for each in (one, two)))
        assert not one.client.held(names.ROUTE)

        await add(ListenerRow(fleet_id=fleet_db.fleet.id, address="127.0.0.1", port=8080))
        await until(lambda: all(has_all(3)(each.client) for each in (one, two)))
        assert one.client.versions[names.ROUTE] == {names.GATEWAY_ROUTES: await settled(*ROUTES)}


async def test_resources_of_removed_listener_do_not_block_rollout(
    fleet_db, server, drive, until, settled, has_all, database
):
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        before = await settled(*ROUTES)
        await fleet_db.remove(fleet_db.listener)
        async with write(database) as unit:
            await rollout.approve(unit, fleet_db.fleet.id)
        await until(lambda: not gateway.client.held(names.LISTENER))
        await gateway.client.ask(names.ROUTE, resource_names_unsubscribe=[names.GATEWAY_ROUTES])
        revision = await fleet_db.change(fleet_db.pools["us"], name="other")
        assert await settled(*ROUTES) != before

        async def nobody_is_waited_for():
            async with database.session() as session:
                tally = await sync.count_acks(session, revision)
            return tally.done and tally.acknowledged

        await until(nobody_is_waited_for)
        assert len(gateway.versions_sent(*ROUTES)) == 1


async def test_resource_named_by_listener_needs_an_ack(fleet_db, serve, drive, until, staff, has_all):
    """This holds even for a type that the canary has not subscribed to yet."""
    async with serve(canary=CanaryPolicy()) as server, drive(server, fleet_db.identity) as gateway:
        gateway.pause(names.LISTENER)
        await until(lambda: gateway.waiting)
        await until(lambda: len(gateway.client.held(names.ENDPOINT)) == 2)
        assert server.publisher.rollouts_in_progress()
        await gateway.resume()
        await until(lambda: has_all(2)(gateway.client))
        before = {**gateway.client.versions[names.EXTENSION]}
        await staff("alice")
        await until(lambda: gateway.client.versions[names.EXTENSION] != before)
        await until(lambda: not server.publisher.rollouts_in_progress())

        gateway.pause(names.EXTENSION)
        await staff("bob")
        await until(lambda: gateway.waiting)
        (key,) = server.publisher.rollouts_in_progress()
        (left,) = server.publisher.rollouts_in_progress()[key].change_sets
        assert {(each.type_url, each.name) for each in left.wanted} == {GROUPS}
        await gateway.resume()
        await until(lambda: not server.publisher.rollouts_in_progress())


async def test_user_change_is_one_resource(fleet_db, server, drive, until, staff, settled, has_all):
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await staff("alice")
        before = await settled(*GROUPS)
        count = len(gateway.client.responses)
        await staff("bob")
        assert await settled(*GROUPS) != before
        assert [each.type_url for each in gateway.client.responses[count:]] == [names.EXTENSION]


async def test_unused_certificate_is_not_sent_and_not_out_of_sync(
    fleet_db, server, drive, until, settled, certificate, synced, has_all
):
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await settled(*ROUTES)
        count = len(gateway.client.responses)
        shown, unshown = await certificate("a"), await certificate("b")
        name = names.certificate_secret(shown.id)
        await settled(*ROUTES)
        assert len(gateway.client.responses) == count
        assert names.SECRET not in await synced(fleet_db.gateway.id)

        await gateway.client.ask(names.SECRET, name)
        await until(lambda: gateway.client.held(names.SECRET) == {name})
        revision = await fleet_db.change(unshown, key="another")
        revision_of_shown = await fleet_db.change(shown, key="another")

        async def written():
            return (await synced(fleet_db.gateway.id)).get(names.SECRET) == (revision_of_shown, True, "")

        await until(written)
        assert revision < revision_of_shown
        assert gateway.client.held(names.SECRET) == {name}
        assert len(gateway.versions_sent(names.SECRET, name)) == 2
        assert not server.publisher.rollouts_in_progress()
