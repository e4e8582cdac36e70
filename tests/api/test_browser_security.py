"""Protection of browsers: security headers, closed CORS, and documentation pages that load nothing from other sites."""

from __future__ import annotations

import re

import pytest

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize(
    ("method", "path", "credential", "status"),
    [
        ("GET", "/health", "", 200),
        ("GET", "/openapi.json", "", 200),
        ("GET", "/docs", "", 200),
        ("GET", "/api/v1/fleets", None, 200),
        ("GET", "/api/v1/fleets", "", 401),
        ("GET", "/api/v1/fleets/nothing", None, 404),
        ("POST", "/api/v1/fleets", None, 400),
    ],
)
async def test_every_response_has_security_headers(method, path, credential, status, api):
    caller = api if credential is None else api.holding(credential)
    reply = await caller(method, path, headers={"content-type": "application/json"})
    assert reply.status == status
    assert {name: reply.headers.get(name) for name in HEADERS} == HEADERS
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert ("script-src 'self'" in reply.headers["content-security-policy"]) == (path == "/docs")
    assert reply.headers.get("cache-control") == ("no-store" if path.startswith("/api/") else None)


async def test_unexpected_error_has_security_headers(api, monkeypatch):
    monkeypatch.setattr(api.app.state.database_probe, "check", None)
    reply = await api("GET", "/health")
    assert reply.status == 500
    assert {name: reply.headers.get(name) for name in HEADERS} == HEADERS


@pytest.mark.parametrize(("scheme", "sent"), [("http", False), ("https", True)])
async def test_hsts_is_sent_over_tls_only(scheme, sent, api):
    reply = await api("GET", "/health", scheme=scheme)
    assert ("strict-transport-security" in reply.headers) == sent


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_no_other_origin_may_read_a_response(method, api):
    headers = {"origin": "https://attacker.example", "access-control-request-method": "GET"}
    for caller in (api, api.holding("")):
        reply = await caller(method, "/api/v1/fleets", headers=headers)
        assert [name for name in reply.headers if name.startswith("access-control-")] == []


async def test_docs_load_nothing_from_other_sites(api):
    page = (await api.anonymous("GET", "/docs")).body.decode()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 3
    assert "<script>" not in page
    assert "//" not in page
    for path in loaded:
        reply = await api.anonymous("GET", path)
        assert (reply.status, reply.headers["x-content-type-options"]) == (200, "nosniff"), path
        assert reply.headers["content-type"].split(";")[0] in {"text/css", "text/javascript", "image/png"}


async def test_docs_script_shows_own_document(api):
    policy = (await api.anonymous("GET", "/docs")).headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "connect-src 'self';" in policy
    assert "/openapi.json" in (await api.anonymous("GET", "/swagger-ui/start.js")).body.decode()


async def test_docs_serve_only_their_own_files(api):
    for path in ("/swagger-ui/nothing.js", "/swagger-ui/redoc.standalone.js", "/swagger-ui/../health", "/redoc"):
        assert (await api("GET", path)).status == 404, path
