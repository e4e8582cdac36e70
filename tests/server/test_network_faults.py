"""Network faults between proxies and the server, and between the server and PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest

import xds.server.server
from model.change_feed import REVISION_CHANNEL
from model.database import Database, parse_url
from model.repositories import sync
from tests.conftest import KEYRING
from tests.server.fault_proxy import ProxiedConnection, before_port, before_unix_socket
from xds.server.world_watcher import Debounce
from xds.translate import names

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.usefixtures("no_logged_errors")]
DELAY_S = 0.3
"""The delay in each direction of a slow connection."""


def sent_resources(client) -> list[str]:
    return [resource.name for response in client.responses for resource in response.resources]


def has_address(gateway, fleet_db, address: str, country: str = "us") -> bool:
    return address.encode() in gateway.client.bodies.get((names.ENDPOINT, fleet_db.cluster(country)), b"")


# -- between proxies and the server ------------------------------------------------------------------------------------


@pytest.fixture
def fleet(fleet_db, serve, drive, until, has_all):
    """`async with fleet(**limits) as (server, proxy, far, near)`: two gateways, the far one behind a fault proxy."""

    @asynccontextmanager
    async def start(**limits):
        second = await fleet_db.add_gateway("gw-2")
        async with (
            serve(**limits) as server,
            before_port(server.ports[0]) as proxy,
            drive(proxy, fleet_db.identity) as far,
            drive(server, second) as near,
        ):
            await until(lambda: has_all(2)(far.client) and has_all(2)(near.client))
            await until(lambda: not server.publisher.rollouts_in_progress())
            yield server, proxy, far, near

    return start


def set_option(monkeypatch, name: str, value: int) -> None:
    """Change an option of the gRPC server."""
    options = {**dict(xds.server.server._OPTIONS), name: value}
    monkeypatch.setattr(xds.server.server, "_OPTIONS", [*options.items()])


@pytest.fixture
def quick_keepalive(monkeypatch) -> None:
    """Send pings four times as often. A busy machine keeps the time to answer them."""
    set_option(monkeypatch, "grpc.keepalive_time_ms", 2_500)


@pytest.fixture
def no_keepalive(monkeypatch) -> None:
    """Send no pings, so that a connection may be stalled for as long as a busy machine takes for the changes."""
    set_option(monkeypatch, "grpc.keepalive_time_ms", 3_600_000)


@pytest.fixture
def leap(monkeypatch):
    """`with leap(seconds)`: the timeouts of streams are enforced as if it were so much later."""
    ahead = [0.0]
    late = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr("xds.server.discovery_service.time", late)

    @contextmanager
    def later(seconds: float):
        ahead[0] = seconds
        yield
        ahead[0] = 0.0

    return later


@pytest.fixture
def connected_types(database):
    """`await connected_types(proxy_id)` returns the types for which the database has a proxy as connected."""

    async def read(proxy_id) -> set[str]:
        async with database.session() as session:
            return {row.type_url for row in await sync.of_proxy(session, proxy_id) if row.replica is not None}

    return read


@pytest.mark.usefixtures("no_keepalive")
async def test_stalled_client_is_disconnected_and_others_are_served(fleet_db, fleet, until, services, leap):
    async with fleet(answer_timeout_s=600) as (server, proxy, far, near):
        (connection,) = proxy.living
        connection.stall()
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await until(lambda: has_address(near, fleet_db, "198.51.100.2"))
        await until(lambda: [bool(each.protocol.unanswered_since) for each in services[0]._streams].count(False) == 1)
        with leap(600):
            await until(lambda: server.publisher.streams == 1)
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.3")
        await until(lambda: has_address(near, fleet_db, "198.51.100.3"))
        assert not has_address(far, fleet_db, "198.51.100.2")
        assert near.code is None


@pytest.mark.usefixtures("quick_keepalive")
@pytest.mark.parametrize("fault", [ProxiedConnection.stall, ProxiedConnection.drop], ids=["stalled", "black hole"])
async def test_keepalive_detects_silent_connection(fleet_db, fleet, until, connected_types, fault):
    """No FIN arrives and nothing waits for an answer, so only the keepalive detects it."""
    async with fleet(answer_timeout_s=600, write_timeout_s=600) as (server, proxy, far, near):

        async def is_connected():
            return len(await connected_types(far.id)) == 5

        async def is_gone():
            return not await connected_types(far.id)

        await until(is_connected)
        (connection,) = proxy.living
        fault(connection)
        await until(lambda: server.publisher.streams == 1)
        await until(is_gone)
        assert len(await connected_types(near.id)) == 5
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await until(lambda: has_address(near, fleet_db, "198.51.100.2"))


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
@pytest.mark.parametrize("changes", [True, False], ids=["something changed", "nothing changed"])
async def test_reconnected_client_gets_only_changes(fleet_db, fleet, drive, until, reset, changes):
    async with fleet() as (server, proxy, far, near):
        proxy.cut(reset=reset)
        await until(lambda: far.code is not None and server.publisher.streams == 1)
        if changes:
            await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
            await until(lambda: has_address(near, fleet_db, "198.51.100.2"))
        proxy.heal()
        async with drive(proxy, far.identity, resumed=far.client.versions) as back:
            await back.client.ask(names.LISTENER, "nothing")  # answered after all that is due
            await until(lambda: back.was_sent(names.LISTENER, "nothing"))
            await until(lambda: not changes or has_address(back, fleet_db, "198.51.100.2"))
            assert sent_resources(back.client) == ([fleet_db.cluster("us")] if changes else [])
            await fleet_db.add_pool("jp")  # the stream is served on
            await until(lambda: back.was_sent(names.CLUSTER, fleet_db.cluster("jp")))


@pytest.mark.usefixtures("no_keepalive")
async def test_stalled_client_gets_only_newest_state(fleet_db, fleet, until):
    """A stream has one pending update, not a queue."""
    async with fleet() as (server, proxy, far, near):
        (connection,) = proxy.living
        connection.stall()
        before = far.client.count(names.ENDPOINT)
        revision = 0
        for number in range(2, 52):
            revision = await fleet_db.change(fleet_db.exits["us"], endpoint=f"198.51.100.{number}")
        await until(lambda: has_address(near, fleet_db, "198.51.100.51"))
        assert server.publisher.world.revision == revision
        proxy.heal()
        await until(lambda: has_address(far, fleet_db, "198.51.100.51"))
        assert far.client.count(names.ENDPOINT) - before <= 2  # the response in flight, and the newest
        assert far.client.responses[-1].system_version_info == str(revision)


async def test_slow_client_gets_newest_state_after_each_ack(fleet_db, fleet, until):
    async with fleet() as (_, proxy, far, _):
        for connection in proxy.living:
            connection.delay(DELAY_S)
        before, began_s = far.client.count(names.ENDPOINT), time.monotonic()
        for number in range(2, 52):
            await fleet_db.change(fleet_db.exits["us"], endpoint=f"198.51.100.{number}")
        await until(lambda: has_address(far, fleet_db, "198.51.100.51"))
        # no response without the answer to the one before, which takes a round trip
        round_trips = (time.monotonic() - began_s) / (2 * DELAY_S)
        assert far.client.count(names.ENDPOINT) - before <= 1 + round_trips
        revisions = [int(each.system_version_info) for each in far.client.responses if each.type_url == names.ENDPOINT]
        assert revisions == sorted(revisions)


# -- between the server and PostgreSQL ---------------------------------------------------------------------------------


@pytest.fixture
async def path(database_url, monkeypatch):
    """A Database behind a fault proxy, and the proxy; queries time out after a second."""
    for name in ("STATEMENT_TIMEOUT_S", "CONNECT_TIMEOUT_S"):
        monkeypatch.setattr(f"model.database.{name}", 1.0)
    url = parse_url(database_url)
    async with before_unix_socket(f"{url.query['host']}/.s.PGSQL.5432") as proxy:
        through = url.set(drivername="postgresql", host="127.0.0.1", port=proxy.port, query={})
        connected = Database(through.render_as_string(hide_password=False), keyring=KEYRING)
        yield connected, proxy
        proxy.heal()
        await connected.close()


@pytest.fixture
def served(fleet_db, path, serve, drive, until, has_all):
    """`async with served() as (server, gateway, proxy)`: a replica whose database is behind the fault proxy."""

    @asynccontextmanager
    async def start(**given):
        through, proxy = path
        async with serve(through, **given) as server, drive(server, fleet_db.identity) as gateway:
            await until(lambda: has_all(2)(gateway.client))
            await until(lambda: not server.publisher.rollouts_in_progress())
            yield server, gateway, proxy

    return start


def listening(proxy) -> list[ProxiedConnection]:
    """Return the living connections with a LISTEN."""
    return [each for each in proxy.living if each.has_sent(f'LISTEN "{REVISION_CHANNEL}"'.encode())]


@pytest.mark.parametrize("fault", [ProxiedConnection.stall, ProxiedConnection.drop], ids=["stalled", "black hole"])
async def test_change_arrives_despite_silent_listen_connection(fleet_db, served, until, fault):
    async with served() as (_, gateway, proxy):
        (silent,) = listening(proxy)
        fault(silent)
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await until(lambda: has_address(gateway, fleet_db, "198.51.100.2"))
        assert silent in proxy.connections
        await until(lambda: [each for each in listening(proxy) if each is not silent])  # a new LISTEN connection
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.3")
        await until(lambda: has_address(gateway, fleet_db, "198.51.100.3"))
        assert gateway.code is None


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
async def test_cut_database_connections_lose_no_stream_or_change(fleet_db, served, until, reset):
    async with served() as (server, gateway, proxy):
        held, responses = gateway.client.versions, len(gateway.client.responses)
        proxy.cut(reset=reset)
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        attempts = len(proxy.connections)
        await gateway.client.ask(names.LISTENER, "nothing")  # answered from memory
        await until(lambda: gateway.was_sent(names.LISTENER, "nothing"))
        assert server.ready
        assert gateway.client.versions == held
        assert len(gateway.client.responses) == responses + 1
        assert len(proxy.connections) == attempts
        proxy.heal()
        await until(lambda: has_address(gateway, fleet_db, "198.51.100.2"))
        assert gateway.code is None
        assert server.publisher.streams == 1


async def test_slow_database_connection_delivers_every_change(fleet_db, path, serve, drive, until, has_all, synced):
    through, proxy = path
    proxy.each(lambda connection: connection.delay(0.05))
    async with serve(through, debounce=Debounce(0, 0.1)) as server, drive(server, fleet_db.identity) as gateway:
        await until(lambda: has_all(2)(gateway.client))
        revision = 0
        for number in range(2, 12):
            revision = await fleet_db.change(fleet_db.exits["us"], endpoint=f"198.51.100.{number}")
        await fleet_db.add_pool("jp")
        await until(lambda: has_address(gateway, fleet_db, "198.51.100.11") and has_all(3)(gateway.client))

        async def is_known():
            return (await synced(fleet_db.gateway.id)).get(names.ENDPOINT, (0,))[0] > revision

        await until(is_known)


@pytest.mark.parametrize("old_connections", ["continue", "reset"])
async def test_stalled_database_keeps_streams_and_recovers(fleet_db, served, until, old_connections):
    """Queries get no answer and no error, so they must time out."""
    async with served() as (server, gateway, proxy):
        established = proxy.living
        reached = len(proxy.connections)
        proxy.each(ProxiedConnection.stall)
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await until(lambda: len(proxy.connections) >= reached + 3)  # timed out and retried
        await gateway.client.ask(names.LISTENER, "nothing")
        await until(lambda: gateway.was_sent(names.LISTENER, "nothing"))
        assert server.ready
        assert not has_address(gateway, fleet_db, "198.51.100.2")
        if old_connections == "reset":
            for connection in established:
                connection.reset()
        proxy.heal()
        await until(lambda: has_address(gateway, fleet_db, "198.51.100.2"))
        await fleet_db.add_pool("jp")
        await until(lambda: gateway.was_sent(names.CLUSTER, fleet_db.cluster("jp")))
        assert gateway.code is None
        assert server.publisher.streams == 1


async def test_replica_stops_while_database_is_stalled(fleet_db, served):
    async with asyncio.timeout(40), served() as (_, _, proxy):
        proxy.each(ProxiedConnection.stall)
