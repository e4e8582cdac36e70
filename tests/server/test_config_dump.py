"""The configuration dump of a proxy, requested as the API does."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from api.features.proxies import config_dump
from api.kernel.caller import Caller
from api.kernel.roles import OperatorRole
from model.repositories import config_requests, declared
from model.tables import ServerCertificateRow
from model.unit_of_work import write
from xds.translate import names

pytestmark = pytest.mark.postgres

AT = datetime(2026, 1, 1, tzinfo=UTC)
CALLER = Caller(UUID(int=1), OperatorRole.VIEWER)


@pytest.fixture
def asked(fleet_db, server):
    """`await asked(identity)` returns the API's configuration of a proxy, and its resources by type and name."""

    async def ask(identity, *, resource=None, differences=False):
        found = await config_dump.show(
            fleet_db.database, CALLER, str(identity.proxy_id), resource=resource, differences=differences
        )
        return found, {(each.type_url, it.name): it for each in found.types for it in each.resources}

    return ask


@pytest.fixture
def known(fleet_db, server, synced, until):
    """`await known(identity)` waits until the database has the stream of a proxy."""

    async def wait(identity):
        async def written():
            found = await config_dump.show(
                fleet_db.database, CALLER, str(identity.proxy_id), resource="none", differences=False
            )
            return bool(found.sync)

        await until(written)

    return wait


async def test_gateway_in_sync_holds_all_desired_resources(fleet_db, server, drive, until, has_all, asked, known):
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await known(fleet_db.identity)
        found, resources = await asked(fleet_db.identity)
        assert (found.answered, found.in_sync) == (True, True)
        assert {key: it.accepted for key, it in resources.items()} == {
            (type_url, name): version
            for type_url, held in gateway.client.versions.items()
            for name, version in held.items()
        }
        assert {it.status for it in resources.values()} == {"accepted"}
        assert all(it.desired == it.accepted for it in resources.values())
        in_order = [names.CLUSTER, names.ENDPOINT, names.EXTENSION, names.LISTENER, names.ROUTE]
        assert [each.type_url for each in found.types] == in_order


async def test_one_resource_is_shown_as_envoy_reads_it(fleet_db, server, drive, until, has_all, asked, known):
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await known(fleet_db.identity)
        _, resources = await asked(fleet_db.identity, resource=fleet_db.cluster("us"))
        assert {type_url for type_url, _ in resources} == {names.CLUSTER, names.ENDPOINT}
        content = resources[names.CLUSTER, fleet_db.cluster("us")].content
        assert content.accepted == content.desired
        assert content.accepted["name"] == fleet_db.cluster("us")


async def test_unanswered_resource_is_sent_and_gated_one_waits(fleet_db, server, drive, until, has_all, asked, known):
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await known(fleet_db.identity)
        gateway.pause(names.CLUSTER)
        await fleet_db.add_pool("jp")
        await until(lambda: gateway.was_sent(names.CLUSTER, fleet_db.cluster("jp")))
        found, resources = await asked(fleet_db.identity, differences=True)
        assert found.in_sync is False
        states = {key: (it.status, it.accepted is None) for key, it in resources.items()}
        assert states == {
            (names.CLUSTER, fleet_db.cluster("jp")): ("sent", True),
            (names.ROUTE, names.GATEWAY_ROUTES): ("waiting", False),
        }


async def test_rejected_resource_is_shown_with_envoys_error(fleet_db, server, drive, until, has_all, asked, known):
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await known(fleet_db.identity)
        gateway.refuses[names.ROUTE] = "gateway_routes: no such thing"
        await fleet_db.add_pool("jp")
        await until(lambda: gateway.refused)

        async def withheld():
            _, resources = await asked(fleet_db.identity, differences=True)
            route = resources.get((names.ROUTE, names.GATEWAY_ROUTES))
            return route is not None and route.status in ("rejected", "withheld") and route.reason

        await until(withheld)
        _, resources = await asked(fleet_db.identity, resource=names.GATEWAY_ROUTES)
        route = resources[names.ROUTE, names.GATEWAY_ROUTES]
        assert "no such thing" in route.reason
        assert route.desired != route.accepted


async def test_proxy_without_stream_gets_no_config_request(fleet_db, server, asked):
    found, resources = await asked(fleet_db.identity)
    assert (found.answered, found.in_sync, resources, found.sync) == (False, None, {}, [])


async def test_only_replica_with_stream_answers_config_request(
    fleet_db, server, serve, drive, until, has_all, asked, known
):
    async with serve() as other, drive(other, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await known(fleet_db.identity)
        found, _ = await asked(fleet_db.identity)
        assert found.answered


async def test_unanswered_config_request_is_deleted(fleet_db, server, drive, until, has_all, asked, known, monkeypatch):
    monkeypatch.setattr(config_dump, "_ANSWER_TIMEOUT_S", 0.0)
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await known(fleet_db.identity)
        found, _ = await asked(fleet_db.identity)
        assert not found.answered
        async with fleet_db.database.session() as session:
            assert await config_requests.unanswered(session, {fleet_db.gateway.id}) == []


async def test_private_key_is_in_no_answer(fleet_db, server, drive, until, has_all, known, database):
    async with write(database) as unit:
        row = ServerCertificateRow(fleet_id=fleet_db.fleet.id, name="a", chain="a chain", key="a key")
        row.server_names, row.expires_at, row.created_at = [], AT, AT
        await declared.save(unit, row)
    name = names.certificate_secret(row.id)
    async with drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await known(fleet_db.identity)
        await gateway.client.ask(names.SECRET, name)
        await until(lambda: gateway.client.held(names.SECRET) == {name})
        async with database.session() as session:
            question = await config_requests.add(session, fleet_db.gateway.id, name)

        async def answered():
            async with database.session() as session:
                return await config_requests.find_answer(session, question)

        types = {each["type_url"]: each["resources"] for each in (await until(answered))["types"]}
        (secret,) = types[names.SECRET]
        assert secret["name"] == name
        assert "content" not in secret
