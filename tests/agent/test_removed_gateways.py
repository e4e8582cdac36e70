"""The end of open connections of gateways that were removed, by the reports of an exit's Envoy."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from uuid import UUID

import grpc
import pytest

from agent.ads.config_record import AcceptedResource, ConfigRecord
from agent.ads.removed_gateways import GatewayConnection, RemovedGateways, read_connections
from model.entities import Proxy, Role
from model.identity import Identity
from model.world import put
from tests.envoy.envoy_process import BOUND_S, eventually
from tests.envoy.gateway_identity import read_identity
from tests.envoy.two_hops import FLEET, GATEWAY, TwoHops, certify, make_exit, two_hops
from tests.envoy.world_server import AGENT_SOCKET
from tests.servers import serving
from xds.translate import names
from xds.translate.admitted_gateways import translate_admitted_gateways
from xds.translate.encoding import encode
from xds.wire.accesslog_pb2 import (
    AccessLogCommon,
    Address,
    HTTPAccessLogEntry,
    SocketAddress,
    StreamAccessLogsMessage,
    TLSProperties,
)

EXIT = make_exit(1, None, egress_address="127.0.0.1")
OTHER = Proxy(UUID(int=8), FLEET, "gw-2", Role.GATEWAY)
NAMES = {each: Identity(FLEET, Role.GATEWAY, each).uri for each in (GATEWAY, OTHER.id)}


def admitting(*gateways: UUID) -> dict[str, AcceptedResource]:
    body = encode(translate_admitted_gateways(FLEET, gateways, []))
    return {names.GATEWAYS_SECRET: AcceptedResource(str(gateways), body)}


def entry(local: str, peer: str, *uris: str) -> HTTPAccessLogEntry:
    alternatives = [TLSProperties.CertificateProperties.SubjectAltName(uri=each) for each in uris]
    certificate = TLSProperties.CertificateProperties(subject_alt_name=alternatives)
    ends = [Address(socket_address=SocketAddress(address=each, port_value=1)) for each in (local, peer)]
    common = AccessLogCommon(
        downstream_local_address=ends[0],
        downstream_direct_remote_address=ends[1],
        tls_properties=TLSProperties(peer_certificate_properties=certificate),
    )
    return HTTPAccessLogEntry(common_properties=common)


def report(*entries: HTTPAccessLogEntry) -> bytes:
    logs = StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=entries)
    return StreamAccessLogsMessage(http_logs=logs).SerializeToString()


@pytest.fixture
def resets(monkeypatch) -> list[tuple[str, str]]:
    """The connections that were reset: both ends of each."""
    found: list[tuple[str, str]] = []

    async def reset(local: str, peer: str) -> None:
        found.append((local, peer))

    async def list_none(*_: str) -> str:
        return ""

    monkeypatch.setattr("agent.ads.removed_gateways.reset", reset)
    monkeypatch.setattr("agent.ads.removed_gateways.ss", list_none)
    return found


def test_connection_is_read_with_both_ends_and_name_of_the_peer():
    raw = report(entry("192.0.2.1", "2001:db8::1", "spiffe://a"), entry("192.0.2.1", "192.0.2.2"))
    assert [*read_connections(raw)] == [GatewayConnection("spiffe://a", "192.0.2.1:1", "[2001:db8::1]:1")]


async def test_connections_of_gateways_that_are_not_admitted_are_reset(resets):
    record = ConfigRecord()
    gateways = RemovedGateways(record)
    raw = report(*(entry("192.0.2.1", f"198.51.100.{place}", uri) for place, uri in enumerate(NAMES.values())))
    await gateways.cut(raw)  # there is no list yet
    record.update(names.SECRET, admitting(GATEWAY, OTHER.id))
    await gateways.cut(raw)
    assert resets == []
    record.update(names.SECRET, admitting(OTHER.id))
    await gateways.cut(raw)
    assert resets == [("192.0.2.1:1", "198.51.100.0:1")]


# -- with a real Envoy -------------------------------------------------------------------------------------------------


class _EchoHandler(BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


@pytest.fixture(scope="module")
def hops(tmp_path_factory) -> Iterator[TwoHops]:
    with two_hops(tmp_path_factory.mktemp("removed"), EXIT) as started:
        started.servers[EXIT.id].change(put(OTHER))
        yield started


@pytest.fixture
async def record(hops) -> AsyncIterator[ConfigRecord]:
    """The record of an agent that receives the reports of the exit's Envoy."""
    found = ConfigRecord()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((RemovedGateways(found).handler,))
    server.add_insecure_port(f"unix:{hops.folder / str(EXIT.id) / AGENT_SOCKET}")
    await server.start()
    yield found
    await server.stop(None)


@contextmanager
def tunnel(hops: TwoHops, identity: ssl.SSLContext, port: int) -> Iterator[ssl.SSLSocket]:
    """Open a tunnel at the exit, as a gateway does."""
    address = ("127.0.0.1", hops.exits[EXIT.id].ports[names.EXIT_LISTENER])
    with (
        closing(socket.create_connection(address, timeout=BOUND_S)) as raw,
        identity.wrap_socket(raw, server_hostname=names.exit_host(EXIT.id)) as connection,
    ):
        connection.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert connection.recv(65536)[:12] == b"HTTP/1.1 200"
        yield connection


def is_echoed(connection: ssl.SSLSocket) -> bool:
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b"x"
    except OSError:
        return False


@pytest.mark.envoy
@pytest.mark.slow
async def test_tunnels_of_removed_gateway_end_and_those_of_others_go_on(hops, record):
    """Both gateways come from one address, as behind a NAT."""
    certify(hops.folder / str(OTHER.id), hops.authority, OTHER)
    identities = [read_identity(hops.folder / str(each)) for each in (GATEWAY, OTHER.id)]
    record.update(names.SECRET, admitting(GATEWAY, OTHER.id))
    with (
        serving(ThreadingTCPServer(("127.0.0.1", 0), _EchoHandler)) as port,
        tunnel(hops, identities[0], port) as removed,
        tunnel(hops, identities[1], port) as kept,
    ):
        assert is_echoed(removed)
        record.update(names.SECRET, admitting(OTHER.id))
        await asyncio.to_thread(eventually, lambda: not is_echoed(removed))
        assert is_echoed(kept)
