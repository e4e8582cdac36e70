"""The cutter of connections to departed exits, and the cut-off of an exit that leaks."""

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

needs_ss = pytest.mark.skipif(shutil.which("ss") is None, reason="ss is missing: install iproute2")


def assignment(*exits: ExitAddress) -> AcceptedResource:
    endpoints = [
        LbEndpoint(
            endpoint=Endpoint(address=Address(socket_address=SocketAddress(address=each.address, port_value=each.port)))
        )
        for each in exits
    ]
    body = ClusterLoadAssignment(endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)]).SerializeToString()
    return AcceptedResource(str(hash(body)), body)


@asynccontextmanager
async def an_exit():
    """Listen, and connect to it; yield the address and the connection's reader."""
    connections: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: connections.put_nowait(writer), "127.0.0.1", 0)
    address = ExitAddress(*server.sockets[0].getsockname()[:2])
    reader, writer = await asyncio.open_connection(*address)
    accepted = await connections.get()
    try:
        yield address, reader
    finally:
        for each in (writer, accepted):
            each.close()
        server.close()


@pytest.fixture
def record() -> ConfigRecord:
    return ConfigRecord()


@needs_ss
async def test_departed_exit_with_open_connection_is_listed(record):
    async with an_exit() as (address, _):
        unused = ExitAddress("127.0.0.1", 1)
        record.update(ENDPOINTS, {"pool": assignment(address, unused)})
        cutter = ConnectionCutter(record, StatusBoard())
        record.update(ENDPOINTS, {"pool": assignment()})
        cutter.refresh()
        assert await cutter.list_departed() == [address]


@needs_ss
async def test_exit_in_another_pool_or_returned_has_not_departed(record):
    async with an_exit() as (address, _):
        record.update(ENDPOINTS, {"a": assignment(address), "b": assignment(address)})
        cutter = ConnectionCutter(record, StatusBoard())
        record.update(ENDPOINTS, {"a": assignment()})
        cutter.refresh()
        assert await cutter.list_departed() == ()
        record.update(ENDPOINTS, {}, ["b"])
        cutter.refresh()
        assert await cutter.list_departed() == [address]
        record.update(ENDPOINTS, {"b": assignment(address)})
        cutter.refresh()
        assert await cutter.list_departed() == ()


async def test_departure_changes_status_at_once(record):
    board = StatusBoard()
    address = ExitAddress("127.0.0.1", 1)
    record.update(ENDPOINTS, {"a": assignment(address)})
    async with running(ConnectionCutter(record, board).run()):
        await asyncio.sleep(0)
        changed = board.changed
        record.update(ENDPOINTS, {"a": assignment()})
        await asyncio.wait_for(changed.wait(), 60)


@needs_ss
async def test_cut_closes_connections_to_named_exits_only(record):
    async with an_exit() as (leaking, cut), an_exit() as (draining, kept):
        record.update(ENDPOINTS, {"a": assignment(leaking, draining)})
        cutter = ConnectionCutter(record, StatusBoard())
        record.update(ENDPOINTS, {"a": assignment()})
        cutter.refresh()
        await cutter.cut([leaking])
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(cut.read(1), 60)
        assert await cutter.list_departed() == [draining]
        assert not kept.at_eof()


async def test_cut_ignores_exit_that_has_not_departed(record):
    async with an_exit() as (address, reader):
        record.update(ENDPOINTS, {"a": assignment(address)})
        cutter = ConnectionCutter(record, StatusBoard())
        await cutter.cut([address])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)


# -- the cut-off of a leaking exit --------------------------------------------------------------------------------------


class Supervisor:
    """A supervisor that counts the cuts of its Envoy."""

    def __init__(self) -> None:
        self.cuts = asyncio.Queue[None]()

    async def cut(self):
        self.cuts.put_nowait(None)


async def test_each_new_leak_cuts_envoy_once():
    board, supervisor = StatusBoard(), Supervisor()
    async with running(cut_when_leaking(board, supervisor)):
        for leak in ("by DNS", "by DNS and IPv6", "", "again"):
            board.update(observation=Observation(leak=leak))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.wait_for(supervisor.cuts.get(), 60)
        await asyncio.wait_for(supervisor.cuts.get(), 60)
        assert supervisor.cuts.empty()
