"""The OAuth 2.0 client of OIDC logins, against a server with scripted replies."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from base64 import b64decode
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

import pytest
from aiohttp import web

from api.runtime.oauth import (
    BODY_MAX_BYTES,
    LoginRefused,
    OAuthClient,
    ProviderUnavailable,
    build_authorization_url,
    compute_code_challenge,
    fetch_document,
    redeem_code,
)

PUBLIC = OAuthClient("exitplane")
CODE = {"code": "c-1", "redirect_uri": "https://api.example.net/callback?x=1&y=é", "code_verifier": "v" * 43}


class FakeOAuthServer:
    """A server that replies with `answer` and records paths, headers and forms."""

    def __init__(self):
        self.url, self.paths, self.headers, self.form = "", [], {}, {}
        self.answer = lambda: web.json_response({"id_token": "x"})

    async def handle(self, request):
        self.paths.append(request.raw_path)
        self.headers, self.form = request.headers, dict(await request.post())
        answer = self.answer()
        return await answer if asyncio.iscoroutine(answer) else answer


@pytest.fixture
async def server():
    serving = FakeOAuthServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serving.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    serving.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    try:
        yield serving
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Remove proxy settings of the machine from the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def text(body, status=200, **more):
    return lambda: web.Response(body=body, status=status, **more)


# -- requests ---------------------------------------------------------------------------------------------------------


def test_authorization_url_keeps_the_endpoints_own_query():
    url = build_authorization_url(
        "https://login.example.net/a?p=policy%201&q=", {"scope": "openid email", "state": "&="}
    )
    assert url.startswith("https://login.example.net/a?p=policy%201&q=&")
    assert parse_qs(urlsplit(url).query)["scope"] == ["openid email"]
    assert parse_qs(urlsplit(url).query)["state"] == ["&="]
    assert build_authorization_url("https://login.example.net/a", {"b": "c"}) == "https://login.example.net/a?b=c"


def test_code_challenge_is_that_of_rfc_7636_appendix_b():
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert compute_code_challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.mark.parametrize("characters", ["exitplane", "a b", "a:b", "a+b", "a%20b", "a/b?c=d&e", "é☃", "~-._*"])
async def test_client_credentials_are_form_encoded_before_base64(characters, server):
    await redeem_code(server.url, OAuthClient(characters, characters[::-1]), CODE)
    scheme, _, pair = server.headers["Authorization"].partition(" ")
    user, colon, password = b64decode(pair).decode("ascii").partition(":")
    assert (scheme, colon) == ("Basic", ":")
    for decode in (unquote_plus, unquote):
        assert (decode(user), decode(password)) == (characters, characters[::-1])
    assert server.form == {"grant_type": "authorization_code", **CODE}


async def test_client_without_a_secret_names_itself_in_the_form(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    await redeem_code(server.url, PUBLIC, CODE)
    assert "Authorization" not in server.headers
    assert server.form == {"grant_type": "authorization_code", "client_id": "exitplane", **CODE}


async def test_requests_take_the_proxy_that_the_environment_names(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/token"))
    assert await fetch_document("http://login.invalid/keys") == {"id_token": "x"}
    assert server.paths == ["http://login.invalid/keys"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert await fetch_document(server.url) == {"id_token": "x"}
    assert server.paths[1:] == ["/token"]


# -- responses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/json", "text/html", "application/octet-stream"])
async def test_json_object_is_read_whatever_its_content_type(content_type, server):
    server.answer = text(b'{"id_token": "x"}', content_type=content_type)
    assert await redeem_code(server.url, PUBLIC, CODE) == await fetch_document(server.url) == {"id_token": "x"}


@pytest.mark.parametrize(
    ("status", "error", "shown"),
    [
        (400, "invalid_grant", "invalid_grant"),
        (401, "invalid_client", "invalid_client"),
        (200, "access_denied", "access_denied"),
        (429, {"code": 7}, "{'code': 7}"),
        (400, "x" * 5_000, "x" * 100),
        (400, None, "None"),
    ],
)
async def test_error_of_the_token_endpoint_refuses_the_login(status, error, shown, server):
    server.answer = text(json.dumps({"error": error, "error_description": "secret words"}).encode(), status)
    with pytest.raises(LoginRefused) as refused:
        await redeem_code(server.url, PUBLIC, CODE)
    assert str(refused.value) == f"the provider refused the code ({shown})"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"error": "server_error"}'),
        (503, b'{"id_token": "x"}'),
        (502, b"<html>bad gateway</html>"),
        (400, b"<html>bad request</html>"),
        (429, b"slow down"),
        (400, b"{}"),
        (302, b'{"id_token": "x"}'),
        (200, b"<html>log in</html>"),
        (200, b"access_token=x&id_token=y"),
        (200, b'["id_token"]'),
        (200, b'"x"'),
        (200, b"\xff\xfe\xfd"),
        (200, b""),
        (204, b""),
        (200, b'{"a":' * 100_000),
    ],
)
async def test_invalid_token_response_is_an_outage(status, body, server):
    server.answer = text(body, status)
    with pytest.raises(ProviderUnavailable, match="/token answers"):
        await redeem_code(server.url, PUBLIC, CODE)
    with pytest.raises(ProviderUnavailable, match="/token answers"):
        await fetch_document(server.url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status, server):
    server.answer = text(b"", status, headers={"Location": "/elsewhere"})
    with pytest.raises(ProviderUnavailable, match=f"answers {status}"):
        await redeem_code(server.url, OAuthClient("exitplane", "word"), CODE)
    with pytest.raises(ProviderUnavailable, match=f"answers {status}"):
        await fetch_document(server.url)
    assert server.paths == ["/token", "/token"]


async def test_oversized_answer_is_an_outage_compressed_or_not(server):
    padded = b'{"id_token": "x"}'.ljust(BODY_MAX_BYTES)
    server.answer = text(padded)
    assert await redeem_code(server.url, PUBLIC, CODE) == {"id_token": "x"}
    larger = padded + b" "
    for answer in (text(larger), text(gzip.compress(larger), headers={"Content-Encoding": "gzip"})):
        server.answer = answer
        with pytest.raises(ProviderUnavailable, match=f"more than {BODY_MAX_BYTES} bytes"):
            await redeem_code(server.url, PUBLIC, CODE)


async def test_silent_provider_times_out(server):
    given_up = asyncio.Event()

    async def hang():
        await given_up.wait()
        return web.Response()

    server.answer = hang
    with pytest.raises(ProviderUnavailable, match=r"no answer within 0\.1 s"):
        await redeem_code(server.url, PUBLIC, CODE, timeout_s=0.1)
    given_up.set()


@pytest.mark.parametrize(
    "url", ["http://[::1", "ftp://127.0.0.1/token", "http://127.0.0.1:99999/", "/token", "http://"]
)
async def test_invalid_address_is_an_outage(url):
    with pytest.raises(ProviderUnavailable):
        await redeem_code(url, PUBLIC, CODE)


async def test_unreachable_provider_is_an_outage():
    with socket.socket() as bound:  # bound without listening: connections are refused and nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ProviderUnavailable, match=r"127\.0\.0\.1"):
            await fetch_document(f"http://127.0.0.1:{bound.getsockname()[1]}/keys")


async def test_provider_that_speaks_no_http_is_an_outage():
    async def greet(_, writer):
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as odd:
        with pytest.raises(ProviderUnavailable):
            await fetch_document(f"http://127.0.0.1:{odd.sockets[0].getsockname()[1]}/keys")
