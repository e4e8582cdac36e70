"""Tests of the HTTP client against servers with scripted answers."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from client import ApiUnreachable, Client, http
from client.http import BadHeader, BadUrl, ConnectionBroken, HttpOrigin, NotConnected, NotTrusted
from model import authority as authorities
from model.authority import LEAF_LIFETIME, create_authority, key_pem_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class ScriptedServer:
    """A server that sends scripted answers, on all connections in turn, and records requests."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = [*answers]
        self.requests: list[str] = []
        self.connections = 0
        self.closed = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while self.answers:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                answer = self.answers.pop(0)
                if answer is None:
                    await reader.read()  # silent until the client disconnects
                    break
                writer.write(answer)
                if b"Connection: close" in answer:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()
        self.closed.set()


@asynccontextmanager
async def origin_of(script: ScriptedServer):
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    origin = HttpOrigin(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base/")
    try:
        yield origin
    finally:
        await origin.close()
        server.close()
        await server.wait_closed()


async def read(origin, target="/x", method="GET", body=b"", **headers):
    async with origin.request(method, target, headers, body) as response:
        return response.status, await response.read()


async def test_connection_is_reused_for_the_next_request():
    script = ScriptedServer(OK, OK)
    async with origin_of(script) as origin:
        assert await read(origin) == (200, b"ok")
        assert await read(origin, "/y?z=1", "POST", b"{}") == (200, b"ok")
    assert script.connections == 1
    assert script.requests[0].startswith("GET /base/x HTTP/1.1\r\n")
    assert script.requests[1].startswith("POST /base/y?z=1 HTTP/1.1\r\n")
    assert "content-length: 2" in script.requests[1].lower()


async def test_connection_closed_by_the_server_is_not_reused():
    script = ScriptedServer(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK)
    async with origin_of(script) as origin:
        await read(origin)
        await read(origin)
    assert script.connections == 2


async def test_connection_idle_for_too_long_is_not_reused(monkeypatch):
    script = ScriptedServer(OK, OK)
    async with origin_of(script) as origin:
        await read(origin)
        monkeypatch.setattr(http, "_IDLE_S", 0.0)
        await read(origin)
    assert script.connections == 2


async def test_connection_in_use_while_the_origin_closes_is_not_kept():
    script = ScriptedServer(OK, OK)
    async with origin_of(script) as origin:
        async with origin.request("GET", "/x", {}) as response:
            await origin.close()
            assert await response.read() == b"ok"
        async with asyncio.timeout(60):
            await script.closed.wait()


async def test_partly_read_reply_closes_the_connection():
    script = ScriptedServer(OK, OK)
    async with origin_of(script) as origin:
        async with origin.request("GET", "/x", {}):
            pass
        await read(origin)
    assert script.connections == 2


async def test_lines_are_joined_across_chunks():
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (b"data: o", b"ne\r\ndata: two\n\nre", b"st"))
    script = ScriptedServer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    async with origin_of(script) as origin, origin.request("GET", "/x", {}) as response:
        assert [line async for line in response.lines()] == [b"data: one", b"data: two", b"", b"rest"]


async def test_truncated_body_raises_connection_broken():
    script = ScriptedServer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhalf")
    async with origin_of(script) as origin:
        with pytest.raises(ConnectionBroken):
            await read(origin)


async def test_other_protocol_raises_connection_broken():
    async with origin_of(ScriptedServer(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")) as origin:
        with pytest.raises(ConnectionBroken):
            await read(origin)


async def test_silent_server_raises_connection_broken(monkeypatch):
    monkeypatch.setattr(http, "_READ_S", 0.05)
    script = ScriptedServer(None)
    async with origin_of(script) as origin:
        with pytest.raises(ConnectionBroken, match="sent nothing"):
            await read(origin)
        await script.closed.wait()


async def test_port_without_server_raises_not_connected():
    async with origin_of(ScriptedServer()) as origin:
        pass
    with pytest.raises(NotConnected):
        await read(origin)


async def test_cookie_is_sent_to_its_path_until_it_is_removed():
    kept = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: state=abc; Path=/base/auth; HttpOnly; Max-Age=60\r\n\r\n")
    gone = OK.replace(b"\r\n\r\n", b'\r\nset-cookie: state=""; Path=/base/auth; Max-Age=0\r\n\r\n')
    script = ScriptedServer(kept, OK, gone, OK)
    async with origin_of(script) as origin:
        for target in ("/auth/login", "/authority", "/auth/callback?code=1", "/auth"):
            await read(origin, target)
    assert ["state=abc" in request for request in script.requests] == [False, False, True, False]


async def test_secure_cookie_is_not_sent_over_http():
    secure = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: state=abc; Path=/; Secure\r\n\r\n")
    script = ScriptedServer(secure, OK)
    async with origin_of(script) as origin:
        await read(origin)
        await read(origin)
    assert "cookie" not in script.requests[1].lower()


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8000", "http://", "http://host:99999", "http://me:secret@host", "http://host?x=1"]
)
async def test_url_that_is_not_an_origin_is_refused(url):
    with pytest.raises(BadUrl):
        await read(HttpOrigin(url))


@pytest.mark.parametrize("value", ["Bearer a\r\nHost: evil", "Bearer \N{SNOWMAN}"])
async def test_invalid_header_value_is_refused(value):
    with pytest.raises(BadHeader):
        await read(HttpOrigin("http://127.0.0.1:9"), Authorization=value)


async def test_header_names_are_case_insensitive():
    script = ScriptedServer(OK.replace(b"Content-Length", b"ETag: one\r\nX-A: 1\r\nx-a: 2\r\ncontent-length"))
    async with origin_of(script) as origin, origin.request("GET", "/x", {}) as response:
        assert (response.headers["etag"], response.headers.get("ETAG")) == ("one", "one")
        assert response.headers.all_of("X-a") == ["1", "2"]
        assert len(response.headers) == len([*response.headers]) == 3


# -- https -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def secure(tmp_path):
    """The port of an HTTPS server named `localhost`, and the file of the authority that signed its certificate."""
    now = datetime.now(UTC)
    authority, key = create_authority(now), ec.generate_private_key(ec.SECP256R1())
    signed = authorities._sign_leaf(
        authority, key.public_key(), "localhost", [x509.DNSName("localhost")], now, LEAF_LIFETIME
    )
    (tmp_path / "pair.pem").write_text(signed + key_pem_of(key))
    (tmp_path / "authority.pem").write_text(authority.certificate_pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pair.pem")
    server = await asyncio.start_server(ScriptedServer(OK).serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1], tmp_path / "authority.pem"
    server.close()


async def ask_over_tls(host, port, ca=None):
    origin = HttpOrigin(f"https://{host}:{port}", ca)
    try:
        return await read(origin)
    finally:
        await origin.close()


async def test_https_accepts_a_certificate_of_the_given_authority(secure, monkeypatch):
    port, authority = secure
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert await ask_over_tls("localhost", port) == (200, b"ok")


async def test_https_trusts_the_given_file_alone(secure, tmp_path):
    port, authority = secure
    assert await ask_over_tls("localhost", port, authority) == (200, b"ok")
    other = tmp_path / "other.pem"
    other.write_text(create_authority(datetime.now(UTC)).certificate_pem)
    with pytest.raises(NotTrusted, match="issuer"):
        await ask_over_tls("localhost", port, other)


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("none", "it holds no certificate")])
async def test_unusable_file_of_an_authority_is_named(content, reason, tmp_path):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    async with Client("https://localhost:1", ca=file) as client:
        with pytest.raises(ApiUnreachable, match=rf"{file} cannot be used \({reason}.*; set EXITPLANE_API_CA"):
            await client.health()


@pytest.mark.parametrize(("host", "trusts", "why"), [("localhost", False, "issuer"), ("127.0.0.1", True, "mismatch")])
async def test_https_refuses_other_certificates(secure, monkeypatch, host, trusts, why):
    port, authority = secure
    if trusts:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with pytest.raises(NotTrusted, match=why):
        await ask_over_tls(host, port)


async def test_error_names_the_variable_for_trusted_authorities(secure):
    port, _ = secure
    async with Client(f"https://localhost:{port}") as client:
        with pytest.raises(ApiUnreachable, match=r"is not trusted .*; .*EXITPLANE_API_CA"):
            await client.health()
