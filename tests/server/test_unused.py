"""What nobody asks for: it holds up no rollout, and nobody is said to lack it."""

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
def add(plane):
    """`await add(row)`: declare something."""

    async def save(row):
        async with write(plane.database) as unit:
            return await declared.save(unit, row)

    return save


@pytest.fixture
def staff(plane, add):
    """`await staff("alice")`: somebody more whose group a route asks for."""
    declared_once = []

    async def join(name):
        if not declared_once:
            match = {"groups": ["staff"]}
            row = RouteRow(fleet_id=plane.fleet.id, name="r", position=1, match=match, action=DENIED, created_at=AT)
            declared_once.append(await add(row))
        await add(UserRow(fleet_id=plane.fleet.id, name=name, group="staff", created_at=AT))

    return join


@pytest.fixture
def settled(plane, server, until):
    """`await settled(*ROUTES)`: once nothing is rolled out any more, the version that the gateways are settled at."""

    async def read(*which):
        revision = await worlds.current_revision(plane.database)
        await until(lambda: server.publisher.world.revision >= revision and not server.publisher.rolling_out())
        async with plane.database.session() as session:
            row = await session.get(AcceptedRow, (f"gateway/{plane.fleet.id}", *which))
        return row and row.version

    return read


@pytest.fixture
def certificate(plane, add):
    """`await certificate("a")`: one that no listener shows."""

    async def make(name):
        row = ServerCertificateRow(fleet_id=plane.fleet.id, name=name, chain=f"chain of {name}", key=f"key of {name}")
        row.server_names, row.expires_at, row.created_at = [], AT, AT
        return await add(row)

    return make


async def test_without_a_listener_what_only_listeners_name_is_settled_untried(
    plane, server, drive, until, staff, settled, add, has_all
):
    await plane.remove(plane.listener)
    second = await plane.add_gateway("gw-2")
    await until(lambda: second.proxy_id in server.publisher.world.proxies)
    async with drive(server, plane.identity) as one, drive(server, second) as two:
        await until(lambda: all(len(each.client.held(names.CLUSTER)) == 2 for each in (one, two)))
        routes, groups = await settled(*ROUTES), await settled(*GROUPS)
        assert routes
        assert groups
        await staff("alice")
        assert (await settled(*GROUPS), await settled(*ROUTES)) != (groups, routes)
        await plane.add_pool("jp")  # clusters are tried as ever
        await until(lambda: all(len(each.client.held(names.CLUSTER)) == 3 for each in (one, two)))
        assert not one.client.held(names.ROUTE)

        await add(ListenerRow(fleet_id=plane.fleet.id, address="127.0.0.1", port=8080))
        await until(lambda: all(has_all(3)(each.client) for each in (one, two)))
        assert one.client.versions[names.ROUTE] == {names.GATEWAY_ROUTES: await settled(*ROUTES)}


async def test_a_name_that_went_with_the_last_listener_holds_nothing_up(
    plane, server, drive, until, settled, has_all, database
):
    async with drive(server, plane.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        before = await settled(*ROUTES)
        await plane.remove(plane.listener)
        async with write(database) as unit:
            await rollout.approve(unit, plane.fleet.id)
        await until(lambda: not gateway.client.held(names.LISTENER))
        await gateway.client.ask(names.ROUTE, resource_names_unsubscribe=[names.GATEWAY_ROUTES])
        revision = await plane.change(plane.pools["us"], name="other")
        assert await settled(*ROUTES) != before

        async def nobody_is_waited_for():
            async with database.session() as session:
                tally = await sync.count_acks(session, revision)
            return tally.done and tally.acknowledged

        await until(nobody_is_waited_for)
        assert len(gateway.versions_sent(*ROUTES)) == 1


async def test_while_a_listener_names_it_somebody_has_to_accept_it(plane, serve, drive, until, staff, has_all):
    """Also of a type that the canary has not asked for yet."""
    async with serve(canary=CanaryPolicy()) as server, drive(server, plane.identity) as gateway:
        gateway.pause(names.LISTENER)
        await until(lambda: gateway.waiting)
        await until(lambda: len(gateway.client.held(names.ENDPOINT)) == 2)
        assert server.publisher.rolling_out()
        await gateway.resume()
        await until(lambda: has_all(2)(gateway.client))
        before = {**gateway.client.versions[names.EXTENSION]}
        await staff("alice")
        await until(lambda: gateway.client.versions[names.EXTENSION] != before)
        await until(lambda: not server.publisher.rolling_out())

        gateway.pause(names.EXTENSION)
        await staff("bob")
        await until(lambda: gateway.waiting)
        (key,) = server.publisher.rolling_out()
        (left,) = server.publisher.rolling_out()[key].change_sets
        assert {(each.type_url, each.name) for each in left.wanted} == {GROUPS}
        await gateway.resume()
        await until(lambda: not server.publisher.rolling_out())


async def test_a_change_of_users_is_one_resource(plane, server, drive, until, staff, settled, has_all):
    async with drive(server, plane.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await staff("alice")
        before = await settled(*GROUPS)
        count = len(gateway.client.responses)
        await staff("bob")
        assert await settled(*GROUPS) != before
        assert [each.type_url for each in gateway.client.responses[count:]] == [names.EXTENSION]


async def test_a_certificate_that_no_listener_shows_is_sent_to_nobody_and_lacked_by_nobody(
    plane, server, drive, until, settled, certificate, synced, has_all
):
    async with drive(server, plane.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await settled(*ROUTES)
        count = len(gateway.client.responses)
        shown, unshown = await certificate("a"), await certificate("b")
        name = names.certificate_secret(shown.id)
        await settled(*ROUTES)
        assert len(gateway.client.responses) == count
        assert names.SECRET not in await synced(plane.gateway.id)

        await gateway.client.ask(names.SECRET, name)
        await until(lambda: gateway.client.held(names.SECRET) == {name})
        revision = await plane.change(unshown, key="another")
        revision_of_shown = await plane.change(shown, key="another")

        async def written():
            return (await synced(plane.gateway.id)).get(names.SECRET) == (revision_of_shown, True, "")

        await until(written)
        assert revision < revision_of_shown
        assert gateway.client.held(names.SECRET) == {name}
        assert len(gateway.versions_sent(names.SECRET, name)) == 2
        assert not server.publisher.rolling_out()
