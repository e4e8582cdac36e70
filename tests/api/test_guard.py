"""Who is answered while operators do not authenticate."""

from __future__ import annotations

import pytest

FLEET = {"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}
ELSEWHERE = ["192.0.2.7", "10.0.0.1", "::2", "::ffff:192.0.2.7", "0.0.0.0", "testclient", ""]
HERE = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"]


@pytest.mark.parametrize("peer", ELSEWHERE)
async def test_operators_elsewhere_are_told_why_they_are_not_answered(peer, api, stored):
    before = await stored()
    for method, path in (
        ("GET", "/api/v1/fleets"),
        ("POST", "/api/v1/fleets"),
        ("DELETE", "/api/v1/fleets/demo"),
        ("GET", "/api/v1/exits/register"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/api/v1/nothing"),
        ("POST", "/api/v1/exits/register/"),
        ("POST", "/api/v1/exits"),
        ("POST", "/health"),
    ):
        reply = await api(method, path, FLEET, peer=peer or " ")
        assert (reply.status, reply.is_problem, reply.json["code"]) == (403, True, "operators_loopback_only"), path
        assert "ssh -L" in reply.json["mend"]
    assert await stored() == before


@pytest.mark.parametrize("peer", HERE)
async def test_operators_on_this_host_are_answered(peer, api):
    assert (await api("GET", "/api/v1/fleets", peer=peer)).status == 200


async def test_a_peer_without_an_address_is_not_taken_for_this_host(api):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/api/v1/fleets", "headers": [(b"host", b"localhost")]}
    await api.app(scope | {"client": None, "query_string": b"", "root_path": ""}, receive, send)
    assert sent[0]["status"] == 403


async def test_proxies_and_watchers_elsewhere_are_answered(api):
    for path in ("/health", "/health/ready", "/health/startup"):
        assert (await api("GET", path, peer="192.0.2.7", headers={"host": "api.example.net"})).status == 200
    for path, status in (
        ("/api/v1/exits/register", 422),
        ("/api/v1/proxies/register", 422),
        ("/api/v1/exits/nobody/heartbeat", 401),
        ("/api/v1/proxies/nobody/heartbeat", 401),
    ):
        assert (await api("POST", path, {}, peer="192.0.2.7", headers={"host": "api.example.net"})).status == status


@pytest.mark.parametrize(
    "host", ["rebound.example.net", "rebound.example.net:8000", "", "localhost.example.net", "1.2.3.4.nip.io"]
)
async def test_a_request_for_another_host_is_refused_for_a_browser_may_have_been_led_here(host, api, stored):
    before = await stored()
    reply = await api("POST", "/api/v1/fleets", FLEET, headers={"host": host})
    assert (reply.status, reply.is_problem, reply.json["code"]) == (421, True, "host_not_ours")
    assert await stored() == before


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "192.0.2.1"])
async def test_a_request_for_this_host_is_answered(host, api):
    assert (await api("GET", "/api/v1/fleets", headers={"host": host})).status == 200


async def test_host_names_from_the_settings_are_names_of_this_host(make_api, database):
    api = make_api(database, host_names=frozenset({"exitplane"}))
    assert (await api("GET", "/api/v1/fleets", headers={"host": "exitplane:8000"})).status == 200
    assert (await api("GET", "/api/v1/fleets", headers={"host": "exitplane.example.net"})).status == 421


async def test_a_form_that_a_page_in_a_browser_sends_is_refused(api, stored):
    before = await stored()
    body = b'{"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}'
    reply = await api(
        "POST", "/api/v1/fleets", body=body, headers={"content-type": "text/plain", "origin": "http://evil"}
    )
    assert reply.status == 415
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert await stored() == before
