"""Faults of the network, between proxies and their server, and between the server and PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

import xds.server.server
from model.change_feed import REVISION_CHANNEL
from model.database import Database, parse_url
from model.repositories import sync
from tests.server.fault_proxy import Connection, before_port, before_unix_socket
from xds.server.world_watcher import Debounce
from xds.translate import names

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.usefixtures("calm")]
SOON_S = 5.0
"""Within this time a change reaches the proxies, whatever became of the connection that listens for it."""


def sent_resources(client) -> list[str]:
    return [resource.name for response in client.responses for resource in response.resources]


def has_address(gateway, plane, address: str, country: str = "us") -> bool:
    return address.encode() in gateway.client.bodies.get((names.ENDPOINT, plane.cluster(country)), b"")


# -- between proxies and the server ------------------------------------------------------------------------------------


@pytest.fixture
def fleet(plane, serve, drive, until, has_all):
    """`async with fleet(**limits) as (server, proxy, far, near)`: two gateways, the far one behind a fault proxy."""

    @asynccontextmanager
    async def start(**limits):
        second = await plane.add_gateway("gw-2")
        async with (
            serve(**limits) as server,
            before_port(server.ports[0]) as proxy,
            drive(proxy, plane.identity) as far,
            drive(server, second) as near,
        ):
            await until(lambda: has_all(2)(far.client) and has_all(2)(near.client))
            await until(lambda: not server.publisher.rolling_out())
            yield server, proxy, far, near

    return start


@pytest.fixture
def quick_keepalive(monkeypatch) -> None:
    """The server's own keepalive, four times as fast: faster still, a busy machine's answers come too late by themselves."""
    times = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    options = [(name, value // 4 if name in times else value) for name, value in xds.server.server._OPTIONS]
    monkeypatch.setattr(xds.server.server, "_OPTIONS", options)


@pytest.fixture
def connected_types(database):
    """`await connected_types(proxy_id)`: the types that a proxy is said to be connected for."""

    async def read(proxy_id) -> set[str]:
        async with database.session() as session:
            return {row.type_url for row in await sync.of_proxy(session, proxy_id) if row.replica is not None}

    return read


async def test_a_client_that_is_stalled_is_cut_off_and_the_others_are_served(plane, fleet, until):
    async with fleet(answer_timeout_s=1) as (server, proxy, far, near):
        (connection,) = proxy.living
        connection.stall()
        await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        await until(lambda: has_address(near, plane, "198.51.100.2"))
        await until(lambda: server.publisher.streams == 1)
        await plane.change(plane.exits["us"], endpoint="198.51.100.3")
        await until(lambda: has_address(near, plane, "198.51.100.3"))
        assert not has_address(far, plane, "198.51.100.2")
        assert near.code is None


@pytest.mark.usefixtures("quick_keepalive")
@pytest.mark.parametrize("befall", [Connection.stall, Connection.drop], ids=["stalled", "black hole"])
async def test_a_connection_on_which_nothing_arrives_is_given_up_and_its_proxy_counts_as_gone(
    plane, fleet, until, connected_types, befall
):
    """No end arrives, and nothing waits for an answer: only the server's own question tells."""
    async with fleet(answer_timeout_s=600, write_timeout_s=600) as (server, proxy, far, near):

        async def is_connected():
            return len(await connected_types(far.id)) == 5

        async def is_gone():
            return not await connected_types(far.id)

        await until(is_connected)
        (connection,) = proxy.living
        befall(connection)
        await until(lambda: server.publisher.streams == 1)
        await until(is_gone)
        assert len(await connected_types(near.id)) == 5
        await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        await until(lambda: has_address(near, plane, "198.51.100.2"))


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
@pytest.mark.parametrize("changes", [True, False], ids=["something changed", "nothing changed"])
async def test_a_client_that_was_cut_comes_back_and_is_sent_only_what_changed(
    plane, fleet, drive, until, reset, changes
):
    async with fleet() as (server, proxy, far, near):
        proxy.cut(reset=reset)
        await until(lambda: far.code is not None and server.publisher.streams == 1)
        if changes:
            await plane.change(plane.exits["us"], endpoint="198.51.100.2")
            await until(lambda: has_address(near, plane, "198.51.100.2"))
        proxy.heal()
        async with drive(proxy, far.identity, resumed=far.client.versions) as back:
            await back.client.ask(names.LISTENER, "nothing")  # answered after all that is due
            await until(lambda: back.was_sent(names.LISTENER, "nothing"))
            await until(lambda: not changes or has_address(back, plane, "198.51.100.2"))
            assert sent_resources(back.client) == ([plane.cluster("us")] if changes else [])
            await plane.add_pool("jp")  # and it is served on
            await until(lambda: back.was_sent(names.CLUSTER, plane.cluster("jp")))


async def test_a_client_that_was_stalled_is_sent_the_newest_state_and_nothing_of_what_lay_between(plane, fleet, until):
    """One pending update for each stream, not a queue."""
    async with fleet() as (server, proxy, far, near):
        (connection,) = proxy.living
        connection.stall()
        before = far.client.count(names.ENDPOINT)
        revision = 0
        for number in range(2, 52):
            revision = await plane.change(plane.exits["us"], endpoint=f"198.51.100.{number}")
        await until(lambda: has_address(near, plane, "198.51.100.51"))
        assert server.publisher.world.revision == revision
        proxy.heal()
        await until(lambda: has_address(far, plane, "198.51.100.51"))
        assert far.client.count(names.ENDPOINT) - before <= 2  # what was on its way, and the newest
        assert far.client.responses[-1].system_version_info == str(revision)


async def test_a_client_far_away_is_sent_what_is_newest_each_time_that_it_answers(plane, fleet, until):
    async with fleet() as (_, proxy, far, _):
        for connection in proxy.living:
            connection.delay(0.3)
        before = far.client.count(names.ENDPOINT)
        for number in range(2, 52):
            await plane.change(plane.exits["us"], endpoint=f"198.51.100.{number}")
        await until(lambda: has_address(far, plane, "198.51.100.51"))
        assert far.client.count(names.ENDPOINT) - before < 25
        revisions = [int(each.system_version_info) for each in far.client.responses if each.type_url == names.ENDPOINT]
        assert revisions == sorted(revisions)


# -- between the server and PostgreSQL ---------------------------------------------------------------------------------


@pytest.fixture
async def path(database_url, monkeypatch):
    """A database of this test's own, and the fault proxy before it; queries wait for a second at most."""
    for name in ("STATEMENT_TIMEOUT_S", "CONNECT_TIMEOUT_S"):
        monkeypatch.setattr(f"model.database.{name}", 1.0)
    url = parse_url(database_url)
    async with before_unix_socket(f"{url.query['host']}/.s.PGSQL.5432") as proxy:
        through = url.set(drivername="postgresql", host="127.0.0.1", port=proxy.port, query={})
        connected = Database(through.render_as_string(hide_password=False))
        yield connected, proxy
        proxy.heal()
        await connected.close()


@pytest.fixture
def served(plane, path, serve, drive, until, has_all):
    """`async with served() as (server, gateway, proxy)`: a replica whose database is behind the fault proxy."""

    @asynccontextmanager
    async def start(**given):
        through, proxy = path
        async with serve(through, **given) as server, drive(server, plane.identity) as gateway:
            await until(lambda: has_all(2)(gateway.client))
            await until(lambda: not server.publisher.rolling_out())
            yield server, gateway, proxy

    return start


def listening(proxy) -> list[Connection]:
    """The living connections that the notifications come over."""
    return [each for each in proxy.living if each.said(f'LISTEN "{REVISION_CHANNEL}"'.encode())]


@pytest.mark.parametrize("befall", [Connection.stall, Connection.drop], ids=["stalled", "black hole"])
async def test_a_change_arrives_although_the_connection_that_listens_fell_silent(plane, served, until, befall):
    async with served() as (_, gateway, proxy):
        (silent,) = listening(proxy)
        befall(silent)
        await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        await until(lambda: has_address(gateway, plane, "198.51.100.2"), timeout_s=SOON_S)
        assert silent in proxy.connections
        await until(lambda: [each for each in listening(proxy) if each is not silent])  # it is listened anew
        await plane.change(plane.exits["us"], endpoint="198.51.100.3")
        await until(lambda: has_address(gateway, plane, "198.51.100.3"), timeout_s=SOON_S)
        assert gateway.code is None


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
async def test_connections_to_postgresql_that_are_cut_cost_no_stream_and_no_change(plane, served, until, reset):
    async with served() as (server, gateway, proxy):
        held, responses = gateway.client.versions, len(gateway.client.responses)
        proxy.cut(reset=reset)
        await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        attempts = len(proxy.connections)
        await gateway.client.ask(names.LISTENER, "nothing")  # answered from memory
        await until(lambda: gateway.was_sent(names.LISTENER, "nothing"))
        assert server.ready
        assert gateway.client.versions == held
        assert len(gateway.client.responses) == responses + 1
        assert len(proxy.connections) == attempts
        proxy.heal()
        await until(lambda: has_address(gateway, plane, "198.51.100.2"))
        assert gateway.code is None
        assert server.publisher.streams == 1


async def test_over_a_slow_path_to_postgresql_everything_arrives(plane, path, serve, drive, until, has_all, synced):
    through, proxy = path
    proxy.each(lambda connection: connection.delay(0.05))
    async with serve(through, debounce=Debounce(0, 0.1)) as server, drive(server, plane.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        revision = 0
        for number in range(2, 12):
            revision = await plane.change(plane.exits["us"], endpoint=f"198.51.100.{number}")
        await plane.add_pool("jp")
        await until(lambda: has_address(gateway, plane, "198.51.100.11") and has_all(3)(gateway.client))

        async def is_known():
            return (await synced(plane.gateway.id)).get(names.ENDPOINT, (0,))[0] > revision

        await until(is_known)


@pytest.mark.parametrize("mended", ["what stood goes on", "what stood is gone"])
async def test_while_the_whole_path_to_postgresql_stands_streams_live_and_then_go_on(plane, served, until, mended):
    """Nothing fails at first, and nothing is answered: queries must not wait for ever."""
    async with served() as (server, gateway, proxy):
        stood = proxy.living
        reached = len(proxy.connections)
        proxy.each(Connection.stall)
        await plane.change(plane.exits["us"], endpoint="198.51.100.2")
        await until(lambda: len(proxy.connections) >= reached + 3, timeout_s=30)  # given up, and tried anew
        await gateway.client.ask(names.LISTENER, "nothing")
        await until(lambda: gateway.was_sent(names.LISTENER, "nothing"))
        assert server.ready
        assert not has_address(gateway, plane, "198.51.100.2")
        if mended == "what stood is gone":
            for connection in stood:
                connection.reset()
        proxy.heal()
        await until(lambda: has_address(gateway, plane, "198.51.100.2"), timeout_s=30)
        await plane.add_pool("jp")
        await until(lambda: gateway.was_sent(names.CLUSTER, plane.cluster("jp")))
        assert gateway.code is None
        assert server.publisher.streams == 1


async def test_a_replica_ends_while_the_whole_path_to_postgresql_stands(plane, served):
    async with asyncio.timeout(40), served() as (_, _, proxy):
        proxy.each(Connection.stall)
