"""The end of streams: by age, by admission, and when their replica stops."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import uuid4

import grpc
import pytest

from model.authority import create_authority
from model.identity import XDS_SERVER_NAME
from model.repositories import authorities
from tests.conftest import KEY_SETTING
from tests.server.conftest import AdsTestClient, GatewayClient, certify
from tests.server.fault_proxy import FaultProxy, before_port
from xds.server.admission import Admission, ConnectionAge
from xds.translate import names

pytestmark = pytest.mark.postgres


def sent_resources(client) -> list[str]:
    return [resource.name for response in client.responses for resource in response.resources]


# -- age ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def draw_stream_ages(monkeypatch):
    """`draw_stream_ages(share)` makes the age of streams this share of their connection's."""

    def fix(share: float) -> None:
        monkeypatch.setattr("xds.server.admission.random", SimpleNamespace(uniform=lambda *_: share))

    return fix


@pytest.mark.usefixtures("no_logged_errors")
async def test_stream_ends_with_ok_at_its_age(fleet_db, serve, connect, draw_stream_ages):
    draw_stream_ages(0)
    async with serve(connection_age_s=60) as server, connect(server, fleet_db.identity) as client:
        assert await client.end() is grpc.StatusCode.OK


@pytest.mark.slow
@pytest.mark.usefixtures("no_logged_errors")
async def test_client_of_old_stream_reconnects_and_resumes(
    fleet_db, serve, dial, until, has_all, services, draw_stream_ages
):
    draw_stream_ages(100)  # the test ends the stream
    async with serve(connection_age_s=5) as aging, serve(connection_age_s=0) as stays:
        leads_to = aging
        balancer = FaultProxy(lambda: asyncio.open_connection("127.0.0.1", leads_to.ports[0]))
        async with balancer.run() as proxy, dial(proxy, fleet_db.identity) as channel:
            old = AdsTestClient(channel)
            await old.start()
            await old.until(has_all(2))
            responses, connections = len(old.responses), len(proxy.connections)
            leads_to = stays
            await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)  # since the GOAWAY
            assert not old.call.done()
            (stream,) = services[0]._streams
            stream.end("OK", "the connection is old")
            assert await old.end() is grpc.StatusCode.OK
            assert len(old.responses) == responses
            new = AdsTestClient(channel)  # on the same channel, which must reconnect
            await new.start(old.versions)
            await new.ask(names.LISTENER, "nothing")  # answered after everything that is due
            assert [*(await new.read()).removed_resources] == ["nothing"]
            assert not sent_resources(new)
            assert len(proxy.connections) == connections + 1
            await until(lambda: (aging.publisher.streams, stays.publisher.streams) == (0, 1))


async def test_connections_without_age_stay(fleet_db, serve, connect, has_all):
    assert ConnectionAge(0).options == []
    async with serve(connection_age_s=0) as server, connect(server, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        await fleet_db.add_pool("jp")
        await client.until(has_all(3))


def test_stream_ends_between_goaway_and_connection_end():
    age = ConnectionAge(1_000)
    goaway_s = dict(age.options)["grpc.max_connection_age_ms"] / 1000
    grace_s = dict(age.options)["grpc.max_connection_age_grace_ms"] / 1000
    drawn = [age.draw_stream_age_s() for _ in range(10_000)]
    assert min(drawn) > goaway_s * 1.1  # gRPC's own jitter
    assert max(drawn) < grace_s  # also if it was opened just before the GOAWAY
    assert max(drawn) - min(drawn) > 300  # clients reconnect at different times


# -- admission ---------------------------------------------------------------------------------------------------------


def test_admission_allows_burst_then_rate():
    admission = Admission(per_s=10, burst=3, penalty_s=0)
    assert [admission.admit(0) for _ in range(5)] == [True, True, True, False, False]
    assert [admission.admit(0.2) for _ in range(3)] == [True, True, False]
    assert [admission.admit(1000) for _ in range(4)] == [True, True, True, False]  # at most a burst of tokens is saved


@pytest.mark.usefixtures("no_logged_errors")
async def test_reconnecting_clients_are_admitted_by_rate(
    fleet_db, serve, connect, drive, has_all, until, monkeypatch, services
):
    now = [1000.0]
    monkeypatch.setattr("xds.server.discovery_service.time", SimpleNamespace(monotonic=lambda: now[0]))
    async with serve(admissions_per_s=1, admissions_burst=2) as server, AsyncExitStack() as stack:
        within = [await stack.enter_async_context(drive(server, fleet_db.identity)) for _ in range(2)]
        await until(lambda: all(has_all(2)(each.client) for each in within))
        for _ in range(5):
            async with connect(server, fleet_db.identity) as refused:
                assert await refused.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert "try again" in await refused.call.details()
        assert server.publisher.streams == len(services[0]._streams) == 2
        await fleet_db.add_pool("jp")
        await until(lambda: all(has_all(3)(each.client) for each in within))
        now[0] += 1
        late = await stack.enter_async_context(drive(server, fleet_db.identity))
        await until(lambda: has_all(3)(late.client))
        async with connect(server, fleet_db.identity) as refused:
            assert await refused.end() is grpc.StatusCode.RESOURCE_EXHAUSTED


# -- replicas that stop -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_logged_errors")
async def test_stopping_replica_ends_streams_in_any_state_with_ok(fleet_db, serve, connect, has_all, until):
    async with AsyncExitStack() as stack:
        async with serve() as server:
            clients = [await stack.enter_async_context(connect(server, fleet_db.identity)) for _ in range(4)]
            quiet, unanswered, busy, new = clients
            for client in (quiet, busy):
                await client.start()
                await client.until(has_all(2))
            await unanswered.start()
            await unanswered.read()
            await new.call.wait_for_connection()
            await until(lambda: server.publisher.streams == 4)
            revision = await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
            await until(lambda: server.publisher.world.revision >= revision)
        assert [await client.end() for client in clients] == [grpc.StatusCode.OK] * 4
        assert server.publisher.streams == 0


async def test_stopping_replica_refuses_new_stream(fleet_db, serve, connect, services):
    async with serve() as server, connect(server, fleet_db.identity) as client:
        services[0].shut_down()
        assert await client.end() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.usefixtures("no_logged_errors")
async def test_replica_stops_despite_client_that_does_not_read(fleet_db, serve, connect, services, until):
    async with connect_later(connect) as later:
        async with asyncio.timeout(60), serve() as server:
            client = await later(server, fleet_db.identity)
            await client.ask(names.ENDPOINT, *(f"name-{number:06}-{'x' * 40}" for number in range(80_000)))
            await until(lambda: any(each.writing_since for each in services[0]._streams))
        assert server.publisher.streams == 0


@asynccontextmanager
async def connect_later(connect):
    """Clients that outlive the server that they are connected to."""
    async with AsyncExitStack() as stack:
        yield lambda *given: stack.enter_async_context(connect(*given))


@asynccontextmanager
async def dial_both(first, second, authority, identity):
    """A channel with the addresses of two replicas.

    It uses the first with which a handshake completes: after 250 ms without one it tries the second address, too.
    """
    pair = certify(authority, identity)
    credentials = grpc.ssl_channel_credentials(
        authority.certificate_pem.encode(), pair.key_pem.encode(), pair.certificate_pem.encode()
    )
    options = [("grpc.ssl_target_name_override", XDS_SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
    target = f"ipv4:127.0.0.1:{first.ports[0]},127.0.0.1:{second.ports[0]}"
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        yield channel


@pytest.mark.usefixtures("no_logged_errors")
async def test_clients_move_to_other_replica_and_get_nothing_twice(fleet_db, serve, authority, has_all, until):
    others = [await fleet_db.add_gateway(f"gw-{number}") for number in range(2, 7)]
    identities = [fleet_db.identity, *others]
    async with serve() as second, before_port(second.ports[0]) as later, AsyncExitStack() as stack:
        later.refuses = True  # otherwise a client whose handshake with the first is slow would use the second
        async with serve() as first:
            channels = [
                await stack.enter_async_context(dial_both(first, later, authority, each)) for each in identities
            ]
            clients = [AdsTestClient(channel) for channel in channels]
            for client in clients:
                await client.start()
            await asyncio.gather(*(client.until(has_all(2)) for client in clients))
            assert (first.publisher.streams, second.publisher.streams) == (len(identities), 0)
            await until(lambda: not first.publisher.rollouts_in_progress())
            later.heal()
        assert {await client.end() for client in clients} == {grpc.StatusCode.OK}
        again = [AdsTestClient(channel) for channel in channels]
        for client, before in zip(again, clients, strict=True):
            await client.start(before.versions)
        await until(lambda: second.publisher.streams == len(identities))
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        for client, before in zip(again, clients, strict=True):
            await client.until(lambda it, before=before: it.versions[names.ENDPOINT] != before.versions[names.ENDPOINT])
            assert sent_resources(client) == [fleet_db.cluster("us")]


# -- the process -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.mark.slow
async def test_sigterm_ends_streams_with_ok_and_logs_no_error(fleet_db, database, database_url, until, has_all):
    """Run `exitplane serve` as a process, and stop it by SIGTERM with open streams."""
    async with database.session() as session:
        authority = await authorities.ensure(session, lambda: create_authority(datetime.now(UTC)))
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")}
    environment |= {
        **KEY_SETTING,
        "EXITPLANE_DATABASE_URL": database_url,
        "EXITPLANE_API_LISTEN": "127.0.0.1:0",
        "EXITPLANE_XDS_LISTEN": f"127.0.0.1:{port}",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli",
        "serve",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with AsyncExitStack() as stack:
            pair = certify(authority, fleet_db.identity)
            credentials = grpc.ssl_channel_credentials(
                authority.certificate_pem.encode(), pair.key_pem.encode(), pair.certificate_pem.encode()
            )
            options = [("grpc.ssl_target_name_override", XDS_SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
            gateways = []
            for _ in range(8):
                channel = await stack.enter_async_context(
                    grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)
                )
                async with asyncio.timeout(60):
                    await channel.channel_ready()
                gateways.append(GatewayClient(AdsTestClient(channel), fleet_db.identity))
            running = [asyncio.create_task(each.run(None)) for each in gateways]
            await until(lambda: all(has_all(2)(each.client) for each in gateways), timeout_s=30)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                await asyncio.gather(*running)
                said, _ = await process.communicate()
        assert [each.code for each in gateways] == [grpc.StatusCode.OK] * len(gateways)
        assert process.returncode == 0, said
        for bad in (b"Traceback", b"ERROR", b"[error", b"exception", b"never retrieved"):
            assert bad not in said, said.decode()
        assert b"serve.stopping" in said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()


def test_bad_request_blocks_only_its_proxy_for_a_while():
    admission = Admission(per_s=10, burst=3, penalty_s=5)
    rogue, other = uuid4(), uuid4()
    admission.block(rogue, 100.0)
    assert [admission.is_blocked(rogue, now) for now in (100.0, 104.9, 105.0)] == [True, True, False]
    assert not admission.is_blocked(other, 100.0)


async def test_proxy_is_blocked_after_malformed_request(fleet_db, serve, connect, has_all, until):
    """The other proxies are served meanwhile."""
    second = await fleet_db.add_gateway("gw-2")
    async with serve(penalty_s=600) as server:
        async with connect(server, fleet_db.identity) as rogue:
            await rogue.call.write(b"\xff" * 100)
            assert await rogue.end() is grpc.StatusCode.INVALID_ARGUMENT
        async with connect(server, fleet_db.identity) as rogue:
            assert await rogue.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with connect(server, second) as good:
            await good.start()
            await good.until(has_all(2))
