"""One gateway that rejects every response holds nothing back from the others, and leaves nothing behind."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import pytest

from model.entities import Rejection, ResourceKey
from model.repositories import declared, rollout
from model.tables import ProxyRow, RouteRow
from model.unit_of_work import write
from xds.server.rollout_controller import CanaryPolicy
from xds.snapshot.rollout import Audience
from xds.translate import names

pytestmark = pytest.mark.postgres

EVERYTHING = (names.CLUSTER, names.LISTENER, names.ROUTE, names.EXTENSION)


def reject_all(gateway) -> None:
    gateway.refuses |= dict.fromkeys(EVERYTHING, "no")


async def add_deny_route(fleet_db) -> None:
    row = RouteRow(
        fleet_id=fleet_db.fleet.id,
        name="denied",
        position=1,
        enabled=True,
        match={"domains": ["zzforbidden.example"]},
        action={"deny": {"status": 403, "text": "no"}},
        created_at=datetime.now(UTC),
    )
    async with write(fleet_db.database) as unit:
        await declared.save(unit, row)


def denies(gateway) -> bool:
    return b"zzforbidden" in gateway.client.bodies.get((names.ROUTE, names.GATEWAY_ROUTES), b"")


@pytest.fixture
def fleet_of(fleet_db, drive, until, has_all):
    """`async with fleet_of(one, other) as gateways`: a gateway at each server, all of which hold everything."""

    @asynccontextmanager
    async def start(*servers):
        identities = [await fleet_db.add_gateway(f"gw-{number + 2}") for number in range(len(servers))]
        await fleet_db.remove(fleet_db.gateway)
        async with AsyncExitStack() as stack:
            gateways = []
            for server, identity in zip(servers, identities, strict=True):
                await until(lambda at=server, who=identity: who.proxy_id in at.publisher.world.proxies)
                gateways.append(await stack.enter_async_context(drive(server, identity)))
            await until(lambda: all(has_all(2)(each.client) for each in gateways))
            await until(lambda: not any(each.publisher.rollouts_in_progress() for each in servers))
            yield gateways

    return start


async def check_each_in_turn(fleet_db, gateways, server, until):
    """Each gateway rejects everything once, so that one of them is the canary; the other one is given all."""
    for rogue, honest in (gateways, gateways[::-1]):
        reject_all(rogue)
        name = f"not-for-{rogue.id}"
        await fleet_db.change(fleet_db.pools["us"], name=name)
        await until(partial(is_named, honest, name))
        await until(lambda: not server.publisher.rollouts_in_progress())
        assert not is_named(rogue, name)
        rogue.refuses.clear()


def is_named(gateway, name: str) -> bool:
    return name.encode() in gateway.client.bodies[names.ROUTE, names.GATEWAY_ROUTES]


@pytest.mark.parametrize("share", [0, 0.5, 1])
async def test_others_get_deny_route_that_one_gateway_rejects(fleet_db, serve, fleet_of, until, share):
    async with serve(canary=CanaryPolicy(share=share)) as server, fleet_of(server, server) as gateways:
        await check_each_in_turn(fleet_db, gateways, server, until)
        rogue, honest = gateways
        reject_all(rogue)
        await add_deny_route(fleet_db)
        await fleet_db.add_pool("jp")
        await until(lambda: denies(honest) and fleet_db.cluster("jp") in honest.client.held(names.CLUSTER))
        await until(lambda: not server.publisher.rollouts_in_progress())


async def test_gateway_at_other_replica_tries_what_canary_rejected(fleet_db, serve, fleet_of, until):
    async with serve() as server, serve() as other, fleet_of(server, other) as gateways:
        await check_each_in_turn(fleet_db, gateways, server, until)


async def test_lone_rejection_does_not_delay_other_change_sets(fleet_db, server, fleet_of, until, drive):
    """The only connected gateway stays the canary, although another one, which is away, has to try what it rejected."""
    async with fleet_of(server) as (gateway,):
        await fleet_db.add_gateway("away")
        gateway.refuses[names.CLUSTER] = "no"
        await fleet_db.add_pool("jp")
        await until(lambda: gateway.refused)
        await until(lambda: server.publisher.world.rejections)
        gateway.refuses.clear()
        await fleet_db.change(fleet_db.listener, port=8081)
        await until(lambda: b"\x91?" in gateway.client.bodies[names.LISTENER, names.GATEWAY_LISTENER])
        await until(lambda: len(server.publisher.rollouts_in_progress()[group_of(fleet_db)].change_sets) == 1)
        (left,) = server.publisher.rollouts_in_progress()[group_of(fleet_db)].change_sets
        assert "alone rejected" in left.reason


@pytest.fixture
def rejected_by_both(fleet_db, server, fleet_of, until):
    """`async with rejected_by_both() as gateways`: a deny route that both connected gateways reject, and nobody is given."""

    @asynccontextmanager
    async def start():
        async with fleet_of(server, server) as gateways:
            for each in gateways:
                reject_all(each)
            await add_deny_route(fleet_db)
            await until(lambda: audience(server, fleet_db) is Audience.NOBODY)
            yield gateways

    return start


def group_of(fleet_db) -> str:
    return f"gateway/{fleet_db.fleet.id}"


def audience(server, fleet_db) -> Audience | None:
    found = server.publisher.rollouts_in_progress().get(group_of(fleet_db))
    return found.change_sets[0].audience if found else None


async def test_deregistered_gateway_takes_its_rejections_along(
    fleet_db, server, rejected_by_both, drive, until, database
):
    async with rejected_by_both() as (rogue, other):
        honest = await fleet_db.add_gateway("honest")
        await until(lambda: honest.proxy_id in server.publisher.world.proxies)
        async with drive(server, honest) as newcomer:
            await until(lambda: newcomer.client.held(names.ROUTE))
            assert not denies(newcomer)
            async with write(database) as unit:
                await declared.remove(unit, await declared.lock(unit.session, ProxyRow, rogue.id))
                await rollout.forget_rejections_by(unit, rogue.id)
            await until(lambda: denies(newcomer))
            await until(lambda: not server.publisher.rollouts_in_progress())
        key = ResourceKey(group_of(fleet_db), names.ROUTE, names.GATEWAY_ROUTES)
        version = newcomer.client.versions[names.ROUTE][names.GATEWAY_ROUTES]
        assert server.publisher.world.rejections_of[key, version] == {(key, version, other.id)}
        server.publisher.add_rejections([Rejection(key, "late", rogue.id, "no")])  # nobody stores it
        assert not server.publisher.has_local_rejection(key.group)


async def test_override_releases_what_all_reject(fleet_db, server, rejected_by_both, drive, until, database):
    async with rejected_by_both():
        (change_set,) = server.publisher.rollouts_in_progress()[group_of(fleet_db)].change_sets
        async with write(database) as unit:
            await rollout.override(unit, fleet_db.fleet.id, group_of(fleet_db), change_set.key, datetime.now(UTC))
        await until(lambda: not server.publisher.rollouts_in_progress())
        assert not server.publisher.world.overrides
        honest = await fleet_db.add_gateway("honest")
        await until(lambda: honest.proxy_id in server.publisher.world.proxies)
        async with drive(server, honest) as newcomer:
            await until(lambda: denies(newcomer))
