"""`exitplane containers`."""

from __future__ import annotations

import asyncio
import json

import pytest

from api.features.containers.schemas import ContainersIn
from api.features.exits.schemas import ExitIn
from api.features.fleets.schemas import FirstListenerIn, FleetIn
from api.features.pools.schemas import PoolIn
from model.repositories import container_commands, containers
from model.tables import ContainerRow

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
async def pools(api, database, clock):
    """Two pools whose exits run in containers, one of each country, and one that has none."""
    await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
    wanted = ContainersIn(minimum=1, maximum=2, image="exit:1")
    for name in ("us", "de"):
        pool = await api.pools.create(PoolIn(name=name, fleet="demo", country=name, containers=wanted))
        await api.exits.create(ExitIn(name=f"{name}-1", fleet="demo", pool=name, address="192.0.2.1", port=8443))
        async with database.session() as session:
            row = ContainerRow(name=f"{name}-1", pool_id=pool.id, slot=1, started_at=clock(), life="running")
            await containers.save(session, row)
    async with database.session() as session:
        await containers.record_engine(session, "unix:///run/engine.sock", clock(), "")
    await api.pools.create(PoolIn(name="plain", fleet="demo", country="gb"))


@pytest.fixture
def asked(database):
    async def read():
        async with database.session() as session:
            return sorted((row.container, row.verb) for row in await container_commands.pending(session))

    return read


async def test_the_list_is_a_table_and_a_sentence_for_each_pool(exitplane):
    done = await exitplane("containers", "list")
    lines = done.out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["demo", "de-1", "running"], ["demo", "us-1", "running"]]
    assert lines[3:] == ["demo/de: 1 run, 1 are wanted", "demo/us: 1 run, 1 are wanted"]
    found = json.loads((await exitplane("containers", "list", "--country", "us", "--json")).out)
    assert [(each["pool"], each["containers"][0]["name"]) for each in found] == [("us", "us-1")]


async def test_those_of_a_country_are_restarted_and_no_others(exitplane, asked):
    done = await exitplane("containers", "restart", "--country", "de")
    assert (done.status, done.out) == (0, "de-1: restart was asked for\n")
    assert await asked() == [("de-1", "restart")]


async def test_exits_are_stopped_and_started_by_name(exitplane, asked):
    await exitplane("containers", "stop", "us-1", "de-1")
    done = await exitplane("containers", "start", "us-1", "--json")
    assert [(each["container"], each["verb"]) for each in json.loads(done.out)] == [("us-1", "start")]
    assert await asked() == [("de-1", "stop"), ("us-1", "start"), ("us-1", "stop")]


@pytest.mark.parametrize("arguments", [(), ("us-1", "--pool", "us")])
async def test_neither_nothing_nor_two_ways_of_saying_it_are_taken(exitplane, asked, arguments):
    done = await exitplane("containers", "restart", *arguments)
    assert (done.status, len(done.err.splitlines()), await asked()) == (1, 1, [])


async def test_logs_are_printed_as_they_are(exitplane, database, clock, until):
    async def answer():
        async with database.session() as session:
            for wish in await container_commands.pending(session):
                await container_commands.complete(session, wish.id, clock(), answer="[bold]a line\n")
                return True
        return False

    done, _ = await asyncio.gather(exitplane("containers", "logs", "us-1", "--lines", "3"), until(answer))
    assert (done.status, done.out) == (0, "[bold]a line\n")
