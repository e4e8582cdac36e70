"""The authentication middleware: credentials of operators, public routes and unexpected errors."""

from __future__ import annotations

import pytest

FLEET = {"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}
ANYWHERE = ["127.0.0.1", "192.0.2.7", "10.0.0.1", "2001:db8::2", "::ffff:192.0.2.7"]


@pytest.mark.parametrize("peer", ANYWHERE)
async def test_authenticated_operator_may_call_from_any_address(peer, api):
    reply = await api("POST", "/api/v1/fleets", FLEET, peer=peer, headers={"host": "api.example.net"})
    assert reply.status == 201


async def test_unauthenticated_request_is_refused(api, stored):
    before = await stored()
    for method, path in (
        ("GET", "/api/v1/fleets"),
        ("POST", "/api/v1/fleets"),
        ("DELETE", "/api/v1/fleets/demo"),
        ("GET", "/api/v1/exits/register"),
        ("GET", "/api/v1/nothing"),
        ("GET", "/nothing"),
        ("POST", "/api/v1/exits/register/"),
        ("POST", "/api/v1/exits"),
        ("POST", "/health"),
        ("PUT", "/api/v1/auth/login"),
        ("OPTIONS", "/api/v1/fleets"),
        ("GET", "/api/v1/auth/../fleets"),
    ):
        for peer in ANYWHERE:
            reply = await api.anonymous(method, path, FLEET, peer=peer)
            assert (reply.status, reply.is_problem, reply.json["code"]) == (401, True, "not_authenticated"), path
    assert await stored() == before


async def test_public_routes_need_no_credential(api):
    for path in ("/health", "/health/ready", "/health/startup", "/docs", "/openapi.json"):
        assert (await api.anonymous("GET", path, peer="192.0.2.7")).status == 200
    for path, status in (
        ("/api/v1/exits/register", 422),
        ("/api/v1/proxies/register", 422),
        ("/api/v1/exits/nobody/heartbeat", 401),
        ("/api/v1/proxies/nobody/heartbeat", 401),
        ("/api/v1/auth/login", 422),
        ("/api/v1/auth/refresh", 422),
    ):
        assert (await api.anonymous("POST", path, {}, peer="192.0.2.7")).status == status, path


async def test_unauthenticated_body_is_not_read(api):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("it was read")

    scope = {"type": "http", "method": "POST", "path": "/api/v1/fleets", "headers": [], "client": None}
    await api.app(scope | {"query_string": b"", "root_path": ""}, receive, send)
    assert sent[0]["status"] == 401


async def test_forbidden_request_is_refused_before_its_body_is_read(api, make_operator):
    viewer = api.holding((await make_operator("vi", "viewer")).key)
    for method, path in (
        ("POST", "/api/v1/fleets"),
        ("PATCH", "/api/v1/fleets/demo"),
        ("PUT", "/api/v1/fleets/demo/rollout/approval"),
        ("DELETE", "/api/v1/exits/x"),
        ("POST", "/api/v1/nothing-yet"),
        ("GET", "/api/v1/operators"),
        ("GET", "/api/v1/audit-events"),
    ):
        reply = await viewer(method, path, body=b"{")
        assert (reply.status, reply.json["code"]) == (403, "not_allowed"), path


async def test_unexpected_error_becomes_problem_without_details(api, monkeypatch):
    def fail(self):
        raise RuntimeError("a secret")

    monkeypatch.setattr("api.kernel.context.ApiContext.begin_read", fail)
    reply = await api("GET", "/api/v1/fleets")
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert b"secret" not in reply.body


async def test_unexpected_authentication_error_becomes_problem(api, monkeypatch):
    async def fail(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr("api.kernel.auth_middleware.identify", fail)
    reply = await api("GET", "/api/v1/fleets")
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert b"secret" not in reply.body


async def test_browser_form_is_refused(api, stored):
    before = await stored()
    body = b'{"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}'
    reply = await api(
        "POST", "/api/v1/fleets", body=body, headers={"content-type": "text/plain", "origin": "http://evil"}
    )
    assert reply.status == 415
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert await stored() == before
