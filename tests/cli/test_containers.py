"""Tests of `exitplane containers`."""

from __future__ import annotations

import asyncio
import json

import pytest

from api.features.exits.schemas import ExitIn
from api.features.fleets.schemas import FirstListenerIn, FleetIn
from api.features.pools.container_schemas import ContainersIn
from api.features.pools.schemas import PoolIn
from model.repositories import container_commands, containers
from model.tables import ContainerRow

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
async def pools(api, database, clock):
    """Create two pools of different countries whose exits run in containers, and one without containers."""
    await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
    wanted = ContainersIn(minimum=1, maximum=2, image="exit:1")
    for name in ("us", "de"):
        pool = await api.pools.create(PoolIn(name=name, fleet="demo", country=name, containers=wanted))
        await api.exits.create(ExitIn(name=f"{name}-1", fleet="demo", pool=name, address="192.0.2.1", port=8443))
        async with database.session() as session:
            row = ContainerRow(name=f"{name}-1", pool_id=pool.id, slot=1, started_at=clock(), state="running")
            await containers.save(session, row)
    async with database.session() as session:
        await containers.record_engine(session, "unix:///run/engine.sock", clock(), "")
    await api.pools.create(PoolIn(name="plain", fleet="demo", country="gb"))


@pytest.fixture
def pending_commands(database):
    async def read():
        async with database.session() as session:
            return sorted((row.container, row.verb) for row in await container_commands.pending(session))

    return read


async def test_list_prints_a_table_and_a_line_for_each_pool(exitplane):
    done = await exitplane("containers", "list")
    lines = done.out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["demo", "de-1", "running"], ["demo", "us-1", "running"]]
    assert lines[3:] == ["demo/de: 1 running, 1 wanted", "demo/us: 1 running, 1 wanted"]
    found = json.loads((await exitplane("containers", "list", "--country", "us", "--json")).out)
    assert [(each["pool"], each["containers"][0]["name"]) for each in found] == [("us", "us-1")]


async def test_restart_of_a_country_leaves_others_alone(exitplane, pending_commands):
    done = await exitplane("containers", "restart", "--country", "de")
    assert (done.status, done.out) == (0, "de-1: restart requested\n")
    assert await pending_commands() == [("de-1", "restart")]


async def test_stop_and_start_take_names_of_exits(exitplane, pending_commands):
    await exitplane("containers", "stop", "us-1", "de-1")
    done = await exitplane("containers", "start", "us-1", "--json")
    assert [(each["container"], each["verb"]) for each in json.loads(done.out)] == [("us-1", "start")]
    assert await pending_commands() == [("de-1", "stop"), ("us-1", "start"), ("us-1", "stop")]


@pytest.mark.parametrize("arguments", [(), ("us-1", "--pool", "us")])
async def test_restart_needs_either_exits_or_a_pool(exitplane, pending_commands, arguments):
    done = await exitplane("containers", "restart", *arguments)
    assert (done.status, len(done.err.splitlines()), await pending_commands()) == (1, 1, [])


async def test_logs_are_printed_verbatim(exitplane, database, clock, until):
    async def answer():
        async with database.session() as session:
            for command in await container_commands.pending(session):
                await container_commands.complete(session, command.id, clock(), answer="[bold]a line\n")
                return True
        return False

    done, _ = await asyncio.gather(exitplane("containers", "logs", "us-1", "--lines", "3"), until(answer))
    assert (done.status, done.out) == (0, "[bold]a line\n")
