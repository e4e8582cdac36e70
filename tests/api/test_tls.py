"""TLS on the API: certificates that are issued or in files, and strangers who do not complete their handshakes."""

from __future__ import annotations

import asyncio
import functools
import ssl
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import aiohttp
import pytest
import uvicorn
import uvloop

from api.http.connections import close_overdue, server_config
from api.runtime.accept_probe import AcceptProbe
from api.runtime.api_certificate import ApiCertificate, BadCertificate, CertificateFiles, IssuedCertificate
from model.authority import LEAF_LIFETIME, create_authority, issue_server
from model.connection_table import ConnectionLimits, ConnectionTable
from model.current_authority import CurrentAuthority


def on_uvloop(test):
    """Run a test on the loop of the control plane."""

    @functools.wraps(test)
    def run(**fixtures):
        uvloop.run(test(**fixtures))

    return run


class ManualClock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def now(clock):
    return clock()


@pytest.fixture
def authority(now):
    return create_authority(now)


@pytest.fixture
def files(tmp_path):
    return CertificateFiles(tmp_path / "certificate.pem", tmp_path / "key.pem")


def write(files, pair):
    files.certificate.write_text(pair.certificate_pem)
    files.key.unlink(missing_ok=True)
    files.key.touch(mode=0o600)
    files.key.write_text(pair.key_pem)


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


class TlsServer:
    """An HTTPS server, the connections that it counts, and an address of its own."""

    def __init__(self, certificate, limits):
        self.table = ConnectionTable("api", limits)
        config = server_config(hello, self.table, tls=lambda: certificate.context, host="127.0.0.1", port=0)
        self.uvicorn = uvicorn.Server(config)

    @property
    def sockets(self):
        return self.uvicorn.servers[0].sockets

    @property
    def port(self):
        return self.sockets[0].getsockname()[1]


@pytest.fixture
def serving(until):
    """`async with serving(certificate, total=…)`: a running TlsServer."""

    @asynccontextmanager
    async def serve(certificate, **limits):
        server = TlsServer(certificate, ConnectionLimits(**limits))
        tasks = [asyncio.create_task(server.uvicorn.serve()), asyncio.create_task(close_overdue(server.table))]
        await until(lambda: server.uvicorn.started)
        try:
            yield server
        finally:
            server.uvicorn.should_exit = True
            tasks[1].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return serve


async def get(server, authority, host="127.0.0.1"):
    """Return the scheme that the server sees, over a verified connection."""
    context = ssl.create_default_context(cadata=authority.certificate_pem)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://{host}:{server.port}/", ssl=context) as reply,
    ):
        return await reply.text()


async def serial_number(server, authority):
    context = ssl.create_default_context(cadata=authority.certificate_pem)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    found = writer.get_extra_info("peercert")["serialNumber"]
    writer.transport.abort()
    return found


@pytest.fixture
def issued(authority, clock):
    return ApiCertificate(IssuedCertificate(CurrentAuthority(authority), ["localhost", "127.0.0.1", "::1"]), clock)


@on_uvloop
async def test_issued_certificate_is_verified_by_name_and_address(issued, authority, serving):
    async with serving(issued) as server:
        assert [await get(server, authority, host) for host in ("127.0.0.1", "localhost")] == ["https", "https"]


@on_uvloop
async def test_concurrent_requests_are_served(issued, authority, serving):
    async with serving(issued) as server:
        assert await asyncio.gather(*(get(server, authority) for _ in range(20))) == ["https"] * 20


@on_uvloop
async def test_certificate_of_a_proxy_does_not_pass_for_the_api(authority, now, clock, serving):
    class ProxysCertificate:
        def read_changed(self, _):
            return issue_server(authority, now)

    async with serving(ApiCertificate(ProxysCertificate(), clock)) as server:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(server, authority)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n"])
@on_uvloop
async def test_plain_http_and_silence_get_no_answer(sent, issued, serving):
    async with serving(issued, wait_s=0.1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        async with asyncio.timeout(60):
            with suppress(ConnectionResetError):
                assert b"HTTP" not in await reader.read()
        writer.transport.abort()
        assert server.table.open == 0


@on_uvloop
async def test_requests_get_in_beside_unfinished_handshakes(issued, authority, serving, until):
    async with serving(issued, total=40) as server:
        strangers = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(100)]
        assert await get(server, authority) == "https"
        await until(lambda: server.table.waiting <= 40)
        assert sum(server.table.closed.values()) >= 60
        for _, writer in strangers:
            writer.transport.abort()


@on_uvloop
async def test_probe_reaches_the_api_over_tls_alone(issued, clock, serving):
    async with serving(issued) as server:
        assert await AcceptProbe(server.sockets, clock, timeout_s=30, tls=True).check()
        assert not await AcceptProbe(server.sockets, clock, timeout_s=30).check()


@on_uvloop
async def test_files_that_change_are_used_for_new_connections(files, authority, now, clock, serving):
    write(files, issue_server(authority, now, ["127.0.0.1"]))
    certificate = ApiCertificate(files, clock)
    async with serving(certificate) as server:
        first = await serial_number(server, authority)
        certificate.refresh()
        assert await serial_number(server, authority) == first
        write(files, issue_server(authority, now, ["127.0.0.1"]))
        certificate.refresh()
        assert await serial_number(server, authority) != first


def test_unusable_files_leave_the_last_certificate(files, authority, now, clock):
    first, second = (issue_server(authority, now) for _ in range(2))
    write(files, first)
    certificate = ApiCertificate(files, clock)
    used = certificate.context
    files.certificate.write_text(second.certificate_pem)  # its key follows later
    certificate.refresh()
    assert certificate.context is used
    write(files, second)
    certificate.refresh()
    assert certificate.context is not used


def test_issued_certificate_is_renewed_before_it_ends(authority, now):
    clock = ManualClock(now)
    certificate = ApiCertificate(IssuedCertificate(CurrentAuthority(authority), []), clock)
    used = certificate.context
    clock.now = now + LEAF_LIFETIME / 2
    certificate.refresh()
    assert certificate.context is used
    clock.now = now + LEAF_LIFETIME * 0.9
    certificate.refresh()
    assert certificate.context is not used


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda files: files.key.unlink(), "key.pem cannot be read"),
        (lambda files: files.key.chmod(0o640), r"others can read .*key.pem \(mode 0640\); chmod 600"),
        (lambda files: files.certificate.write_text("-----BEGIN"), "not PEM; write the certificate first"),
        (lambda files: files.certificate.write_bytes(b"\xff"), "certificate.pem cannot be read"),
        (lambda files: files.key.write_text("none"), "do not fit together; write the certificate before its chain"),
    ],
)
def test_bad_files_are_refused_with_the_cure(spoil, reason, files, authority, now, clock):
    write(files, issue_server(authority, now))
    spoil(files)
    with pytest.raises(BadCertificate, match=reason):
        ApiCertificate(files, clock)


def test_chain_in_the_wrong_order_is_refused(files, authority, now, clock):
    pair = issue_server(authority, now)
    write(files, pair)
    files.certificate.write_text(authority.certificate_pem + pair.certificate_pem)
    with pytest.raises(BadCertificate, match="do not fit together"):
        ApiCertificate(files, clock)


@pytest.mark.parametrize("offset", [-timedelta(days=2), LEAF_LIFETIME + timedelta(minutes=1)])
def test_certificate_outside_its_period_is_refused(offset, files, authority, now):
    write(files, issue_server(authority, now))
    with pytest.raises(BadCertificate, match=r"valid from .* UTC; renew it, or correct the clock"):
        ApiCertificate(files, ManualClock(now + offset))
