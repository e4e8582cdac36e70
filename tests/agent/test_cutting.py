"""Which exits left a gateway's configuration, and what becomes of the open connections to them."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager

import pytest

from agent.ads.config_record import AcceptedResource, ConfigRecord
from agent.ads.connection_cutter import ENDPOINTS, ConnectionCutter, ExitAddress
from agent.config.status import Observation, StatusBoard
from agent.envoy.leak_cutoff import cut_when_leaking
from tests.tasks import running
from xds.wire.endpoint_pb2 import (
    Address,
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
    SocketAddress,
)

needs_ss = pytest.mark.skipif(shutil.which("ss") is None, reason="there is no ss: install iproute2")


def assignment(*places: ExitAddress) -> AcceptedResource:
    endpoints = [
        LbEndpoint(
            endpoint=Endpoint(address=Address(socket_address=SocketAddress(address=each.address, port_value=each.port)))
        )
        for each in places
    ]
    body = ClusterLoadAssignment(endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)]).SerializeToString()
    return AcceptedResource(str(hash(body)), body)


@asynccontextmanager
async def an_exit():
    """Something that listens, and a connection to it; gives its place and the connection."""
    came: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: came.put_nowait(writer), "127.0.0.1", 0)
    place = ExitAddress(*server.sockets[0].getsockname()[:2])
    reader, writer = await asyncio.open_connection(*place)
    accepted = await came.get()
    try:
        yield place, reader
    finally:
        for each in (writer, accepted):
            each.close()
        server.close()


@pytest.fixture
def record() -> ConfigRecord:
    return ConfigRecord()


@needs_ss
async def test_an_exit_that_left_is_asked_about_while_connections_to_it_are_open(record):
    async with an_exit() as (place, _):
        unused = ExitAddress("127.0.0.1", 1)
        record.put(ENDPOINTS, {"pool": assignment(place, unused)})
        cutter = ConnectionCutter(record, StatusBoard())
        record.put(ENDPOINTS, {"pool": assignment()})
        cutter.look()
        assert await cutter.gone() == [place]


@needs_ss
async def test_an_exit_that_came_back_or_stands_in_another_pool_too_has_not_left(record):
    async with an_exit() as (place, _):
        record.put(ENDPOINTS, {"a": assignment(place), "b": assignment(place)})
        cutter = ConnectionCutter(record, StatusBoard())
        record.put(ENDPOINTS, {"a": assignment()})
        cutter.look()
        assert await cutter.gone() == ()
        record.put(ENDPOINTS, {}, ["b"])
        cutter.look()
        assert await cutter.gone() == [place]
        record.put(ENDPOINTS, {"b": assignment(place)})
        cutter.look()
        assert await cutter.gone() == ()


async def test_the_control_plane_is_asked_at_once(record):
    board = StatusBoard()
    place = ExitAddress("127.0.0.1", 1)
    record.put(ENDPOINTS, {"a": assignment(place)})
    async with running(ConnectionCutter(record, board).run()):
        await asyncio.sleep(0)
        changed = board.changed
        record.put(ENDPOINTS, {"a": assignment()})
        await asyncio.wait_for(changed.wait(), 60)


@needs_ss
async def test_connections_are_cut_to_those_that_are_named_and_to_no_other(record):
    async with an_exit() as (leaking, cut), an_exit() as (draining, kept):
        record.put(ENDPOINTS, {"a": assignment(leaking, draining)})
        cutter = ConnectionCutter(record, StatusBoard())
        record.put(ENDPOINTS, {"a": assignment()})
        cutter.look()
        await cutter.cut([leaking])
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(cut.read(1), 60)
        assert await cutter.gone() == [draining]
        assert not kept.at_eof()


async def test_what_never_left_is_not_cut_whatever_is_said(record):
    async with an_exit() as (place, reader):
        record.put(ENDPOINTS, {"a": assignment(place)})
        cutter = ConnectionCutter(record, StatusBoard())
        await cutter.cut([place])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)


# -- an exit's own half ------------------------------------------------------------------------------------------------


class Supervisor:
    """Counts how often its Envoy was cut."""

    def __init__(self) -> None:
        self.cuts = asyncio.Queue[None]()

    async def cut(self):
        self.cuts.put_nowait(None)


async def test_an_exit_that_begins_to_leak_ends_its_envoy_once_for_each_leak():
    board, supervisor = StatusBoard(), Supervisor()
    async with running(cut_when_leaking(board, supervisor)):
        for leak in ("by DNS", "by DNS and IPv6", "", "again"):
            board.update(observation=Observation(leak=leak))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.wait_for(supervisor.cuts.get(), 60)
        await asyncio.wait_for(supervisor.cuts.get(), 60)
        assert supervisor.cuts.empty()
