"""Heartbeats: authentication, receipt and reply."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import delete

from model.authority import LEAF_LIFETIME, sign_request
from model.entities import Role
from model.identity import Identity
from model.request_signature import thumbprint_of
from model.tables import ChangeRow

GOOD = {"tunnel": "up", "envoy": "up"}


async def test_heartbeat_reply_has_state_and_sink_stores_it(exit_proxy, demo, clock):
    reply = await exit_proxy.beat(tunnel="down", reason="no handshake\nfor 3 min", stopping=True, version="0.1.0")
    assert (reply.status, reply.json) == (
        202,
        {"state": "registering", "interval_s": 10, "authority_version": exit_proxy.enrolled["authority_version"]},
    )
    await demo.context.heartbeat_sink.flush()
    shown = (await demo("GET", f"/api/v1/proxies/{exit_proxy.id}")).json["last_heartbeat"]
    assert shown == {
        "at": "2026-01-01T12:00:00Z",
        "tunnel": "down",
        "envoy": "up",
        "stopping": True,
        "reason": "no handshake\nfor 3 min",
        "version": "0.1.0",
    }
    assert (await demo("GET", f"/api/v1/exits/{exit_proxy.id}")).json["last_heartbeat_at"] == "2026-01-01T12:00:00Z"
    assert [row["last_heartbeat_at"] for row in (await demo("GET", "/api/v1/exits")).json["items"]] == [shown["at"]]


async def test_observation_is_shown_and_keeps_etag(exit_proxy, demo):
    before = await demo("GET", f"/api/v1/exits/{exit_proxy.id}")
    assert before.json["observation"] is None
    seen = {"address": "198.51.100.9", "country": "us", "conflict": "a sees this, b sees that"}
    assert (await exit_proxy.beat(observation=seen)).status == 202
    await demo.context.heartbeat_sink.flush()
    after = await demo("GET", f"/api/v1/exits/{exit_proxy.id}")
    assert {name: value for name, value in after.json["observation"].items() if value} == seen
    assert after.headers["etag"] == before.headers["etag"]
    assert [row["observation"] for row in (await demo("GET", "/api/v1/exits")).json["items"]] == [
        after.json["observation"]
    ]


async def test_names_of_previous_release_are_accepted(exit_proxy, gateway, demo):
    seen = {"trouble": "a: it answers 500", "disagreement": "a sees this"}
    results = [{"id": str(exit_proxy.id), "trouble": "it has one server only"}]
    body = {"tunnel": "up", "envoy": "up", "leaving": True, "observation": seen, "settled": results}
    assert (await exit_proxy.beat_raw(json.dumps(body).encode())).status == 202
    removed = [{"address": "192.0.2.77", "port": 8443}]
    reply = await gateway.beat_raw(json.dumps({"envoy": "up", "gone": removed}).encode())
    assert reply.json["cut"] == reply.json["endpoints_to_cut"] == removed
    await demo.context.heartbeat_sink.flush()
    assert (await demo("GET", f"/api/v1/proxies/{exit_proxy.id}")).json["last_heartbeat"]["stopping"] is True
    shown = (await demo("GET", f"/api/v1/exits/{exit_proxy.id}")).json["observation"]
    assert (shown["error"], shown["conflict"]) == ("a: it answers 500", "a sees this")


@pytest.mark.parametrize(
    ("observation", "field"),
    [
        ("us", "/observation"),
        ([], "/observation"),
        ({"country": "United States"}, "/observation/country"),
        ({"country": "US"}, "/observation/country"),
        ({"country": 7}, "/observation/country"),
        ({"address": "1" * 46}, "/observation/address"),
        ({"city": "a\u0000b"}, "/observation/city"),
        ({"network": "x" * 501}, "/observation/network"),
        ({"speed": 1e308}, "/observation/speed"),
        ({"rtt_ms": -0.1}, "/observation/rtt_ms"),
        ({"rtt_ms": 60_000.1}, "/observation/rtt_ms"),
        ({"rtt_ms": float("nan")}, "/observation/rtt_ms"),
        ({"rtt_ms": "12"}, "/observation/rtt_ms"),
        ({"download_mbps": -1}, "/observation/download_mbps"),
        ({"download_mbps": float("inf")}, "/observation/download_mbps"),
        ({"upload_mbps": 1e7}, "/observation/upload_mbps"),
        ({"upload_mbps": float("nan")}, "/observation/upload_mbps"),
        ({"changed_at": "2026-01-01T13:00:01Z"}, "/observation/changed_at"),
        ({"changed_at": "2026-01-01T12:00:00"}, "/observation/changed_at"),
        ({"changed_at": 0}, "/observation/changed_at"),
        ({"speed_measured_at": "9999-12-31T23:59:59Z"}, "/observation/speed_measured_at"),
        ({"speed_measured_at": "yesterday"}, "/observation/speed_measured_at"),
        ({"address_v6": "1" * 46}, "/observation/address_v6"),
        ({"resolver": "a\u001bb"}, "/observation/resolver"),
    ],
)
async def test_bad_observation_field_is_named(observation, field, exit_proxy, demo):
    reply = await exit_proxy.beat(observation=observation)
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, [field])
    assert demo.context.heartbeat_sink.pending_count == 0


async def test_measurements_of_exit_are_shown(exit_proxy, demo):
    seen = {
        "address": "198.51.100.9",
        "address_v6": "2001:db8::9",
        "country": "us",
        "resolver": "198.51.100.53 in us",
        "previous_address": "198.51.100.8",
        "changed_at": "2026-01-01T12:59:59Z",
        "rtt_ms": 60000.0,
        "download_mbps": 94.1,
        "upload_mbps": 1000000.0,
        "speed_measured_at": "2025-12-31T23:00:00Z",
    }
    assert (await exit_proxy.beat(observation=seen)).status == 202
    await demo.context.heartbeat_sink.flush()
    shown = (await demo("GET", f"/api/v1/exits/{exit_proxy.id}")).json["observation"]
    assert {name: value for name, value in shown.items() if value} == seen


async def test_gateway_cannot_send_observation(gateway):
    reply = await gateway.beat_raw(b'{"envoy": "up", "observation": {}}')
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, ["/observation"])


async def test_heartbeat_makes_no_revision(exit_proxy, demo, stored):
    before = await stored()
    await exit_proxy.beat()
    await demo.context.heartbeat_sink.flush()
    assert await stored() == before | {"heartbeat": 1}


async def test_gateway_heartbeat_has_no_tunnel_and_no_state(gateway):
    reply = await gateway.beat_raw(b'{"envoy": "up"}')
    assert (reply.status, reply.json) == (
        202,
        {"state": None, "interval_s": 10, "authority_version": gateway.enrolled["authority_version"]},
    )


async def test_exit_heartbeat_requires_tunnel(exit_proxy):
    reply = await exit_proxy.beat_raw(b'{"envoy": "up"}')
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, ["/tunnel"])


async def test_exit_may_use_proxy_heartbeat_path(exit_proxy):
    reply = await exit_proxy.beat(path=f"/api/v1/proxies/{exit_proxy.id}/heartbeat")
    assert (reply.status, reply.json["state"]) == (202, "registering")


async def test_gateway_is_404_on_exit_heartbeat_path(gateway):
    reply = await gateway.beat(path=f"/api/v1/exits/{gateway.id}/heartbeat")
    assert (reply.status, reply.json["code"]) == (404, "unknown_exit")


async def test_heartbeat_of_known_proxy_needs_no_statement(exit_proxy, demo, statements):
    await exit_proxy.beat()
    assert len(statements) == 1
    for _ in range(10):
        assert (await exit_proxy.beat()).status == 202
    assert len(statements) == 1


async def test_heartbeat_reply_tells_exit_it_is_disabled(exit_proxy, demo):
    await demo.context.certificate_cache.catch_up()
    assert (await exit_proxy.beat()).json["state"] == "registering"
    await demo("PATCH", f"/api/v1/exits/{exit_proxy.id}", {"enabled": False})
    await demo.context.certificate_cache.catch_up()
    assert (await exit_proxy.beat()).json["state"] == "disabled"


async def test_removed_proxy_gets_410_at_once(exit_proxy, gateway, demo, stored):
    for proxy in (exit_proxy, gateway):
        assert (await proxy.beat()).status == 202
        assert (await demo("DELETE", f"/api/v1/{proxy.collection}/{proxy.id}")).status == 204
        reply = await proxy.beat()
        assert (reply.status, reply.json["code"], reply.is_problem) == (410, "deregistered", True)
        assert reply.json["errors"][0]["value"] == proxy.id
    await demo.context.heartbeat_sink.flush()
    assert (await stored())["heartbeat"] == 0


async def test_removed_proxy_gets_410_when_change_log_has_forgotten_it(exit_proxy, demo, database):
    assert (await demo("DELETE", f"/api/v1/exits/{exit_proxy.id}")).status == 204
    async with database.session() as session:
        await session.execute(delete(ChangeRow))
    assert (await exit_proxy.beat()).status == 410


async def test_heartbeat_of_proxy_removed_by_another_replica_is_410(exit_proxy, demo, make_api, database):
    other = make_api(database)
    await demo.context.certificate_cache.catch_up()
    assert (await exit_proxy.beat()).status == 202
    assert (await other("DELETE", f"/api/v1/exits/{exit_proxy.id}")).status == 204
    await demo.context.certificate_cache.catch_up()
    assert (await exit_proxy.beat()).status == 410


async def test_heartbeat_of_unknown_id_is_404(exit_proxy, demo, make_proxy, authority, clock):
    stranger = make_proxy(Role.EXIT)
    stranger.certificate = foreign_certificate(authority, stranger, clock())
    for ref in (str(uuid4()), "nobody", "0" * 36):
        for collection, code in (("exits", "unknown_exit"), ("proxies", "unknown_proxy")):
            reply = await stranger.beat(path=f"/api/v1/{collection}/{ref}/heartbeat")
            assert (reply.status, reply.json["code"]) == (404, code)


def foreign_certificate(authority, proxy, now):
    return sign_request(authority, proxy.csr, Identity(uuid4(), proxy.role, uuid4()), now)


async def test_unrecorded_certificate_is_refused(exit_proxy, make_proxy, authority, clock):
    stranger = make_proxy(Role.EXIT)
    stranger.certificate = foreign_certificate(authority, stranger, clock())
    reply = await stranger.beat(path=exit_proxy.path)
    assert (reply.status, reply.json["code"]) == (401, "bad_signature")
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_heartbeat_with_certificate_of_another_proxy_is_403(exit_proxy, demo, make_proxy, make_token, gateway):
    other = make_proxy(Role.EXIT)
    await other.enrol(await make_token(Role.EXIT), "two")
    for speaker, path in ((other, exit_proxy.path), (gateway, exit_proxy.path), (other, gateway.path)):
        reply = await speaker.beat(path=path)
        assert (reply.status, reply.json["code"]) == (403, "wrong_certificate")
    reply = await other.beat(path=f"/api/v1/exits/{uuid4()}/heartbeat")
    assert reply.status == 403
    assert demo.context.heartbeat_sink.pending_count == 0


async def test_signature_covers_path_body_key_and_time(exit_proxy, demo, clock):
    body = json.dumps(GOOD).encode()
    path = exit_proxy.path

    async def status(headers, sent=body):
        return (await demo("POST", path, body=sent, headers=headers, peer="203.0.113.9")).status

    good = exit_proxy.sign(body, path)
    assert await status(good) == 202
    assert await status(good, body + b" ") == 401
    assert await status(exit_proxy.sign(body, "/api/v1/exits/register")) == 401
    key, exit_proxy.key = exit_proxy.key, ec.generate_private_key(ec.SECP256R1())
    assert await status(exit_proxy.sign(body, path)) == 401
    exit_proxy.key = key
    clock.advance(minutes=10)
    assert await status(good) == 401
    assert await status(exit_proxy.sign(body, path)) == 202


async def test_expired_certificate_is_refused(exit_proxy, clock):
    clock.advance(seconds=(LEAF_LIFETIME - timedelta(seconds=1)).total_seconds())
    assert (await exit_proxy.beat()).status == 202
    clock.advance(seconds=1)
    reply = await exit_proxy.beat()
    assert (reply.status, reply.json["code"]) == (401, "bad_signature")
    assert "expired" in reply.json["detail"]


def part(value) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


DEEP = base64.urlsafe_b64encode(b"[" * 9_000 + b"]" * 9_000).rstrip(b"=").decode()
HEADERS = {
    "none": "",
    "another scheme": "Basic YTpi",
    "an empty token": "Bearer ",
    "no token": "Bearer hello",
    "a token of nonsense": "Bearer a.b.c",
    "a token whose header is a list": f"Bearer {part([1])}.e30.c2ln",
    "a token that names no certificate": f"Bearer {part({'alg': 'ES256'})}.e30.c2ln",
    "a thumbprint with NUL": f"Bearer {part({'alg': 'ES256', 'x5t#S256': chr(0)})}.e30.c2ln",
    "a thumbprint that is a number": f"Bearer {part({'alg': 'ES256', 'x5t#S256': 7})}.e30.c2ln",
    "a thumbprint that is too long": f"Bearer {part({'alg': 'ES256', 'x5t#S256': 'a' * 5000})}.e30.c2ln",
    "a header that is nested deeply": f"Bearer {DEEP}.e30.c2ln",
    "latin-1": "Bearer \xe4\xf6\xfc",
}


@pytest.mark.parametrize("case", HEADERS)
async def test_malformed_signature_is_refused(case, exit_proxy, demo):
    headers = {"authorization": HEADERS[case]}
    reply = await demo("POST", exit_proxy.path, GOOD, headers=headers, peer="203.0.113.9")
    assert (reply.status, reply.json["code"], reply.is_problem) == (401, "bad_signature", True)
    assert demo.context.heartbeat_sink.pending_count == 0


CLAIMS = {
    "unsigned": ({}, "none"),
    "signed with a shared secret": ({}, "HS256"),
    "an iat that is text": ({"iat": "now"}, "ES256"),
    "an iat that is a list": ({"iat": []}, "ES256"),
    "an iat beyond all numbers": ({"iat": 10**400}, "ES256"),
    "no audience": ({"aud": None}, "ES256"),
    "an audience of many": ({"aud": ["a", "b"]}, "ES256"),
    "another body": ({"sha256": "0"}, "ES256"),
}


@pytest.mark.parametrize("case", CLAIMS)
async def test_signature_with_odd_claims_is_refused(case, exit_proxy, demo, clock):
    change, algorithm = CLAIMS[case]
    body = json.dumps(GOOD).encode()
    whole = jwt.decode(exit_proxy.sign(body, exit_proxy.path)["authorization"][7:], options={"verify_signature": False})
    key = {"none": None, "HS256": "x" * 64, "ES256": exit_proxy.key_pem}[algorithm]
    named = {"x5t#S256": thumbprint_of(exit_proxy.certificate)}
    token = jwt.api_jws.encode(json.dumps(whole | change).encode(), key, algorithm=algorithm, headers=named)
    headers = {"authorization": f"Bearer {token}"}
    reply = await demo("POST", exit_proxy.path, body=body, headers=headers, peer="203.0.113.9")
    assert (reply.status, reply.json["code"]) == (401, "bad_signature")


BODIES = {
    "no JSON": (b"tunnel=up", 400, None),
    "an empty body": (b"", 400, None),
    "NaN": (b'{"tunnel": NaN, "envoy": "up"}', 422, "/tunnel"),
    "an unpaired surrogate": (b'{"tunnel": "up", "envoy": "up", "reason": "\\ud800"}', 400, None),
    "deep nesting": (b'{"tunnel": ' + b"[" * 100_000, 400, None),
    "a list": (b"[]", 422, ""),
    "a tunnel that is neither": (b'{"tunnel": "maybe", "envoy": "up"}', 422, "/tunnel"),
    "a tunnel that is true": (b'{"tunnel": true, "envoy": "up"}', 422, "/tunnel"),
    "no word on Envoy": (b'{"tunnel": "up"}', 422, "/envoy"),
    "stopping by a word": (b'{"tunnel": "up", "envoy": "up", "stopping": "no"}', 422, "/stopping"),
    "stopping by a number": (b'{"tunnel": "up", "envoy": "up", "stopping": 1}', 422, "/stopping"),
    "a reason with NUL": (b'{"tunnel": "up", "envoy": "up", "reason": "a\\u0000b"}', 422, "/reason"),
    "a reason with an escape": (b'{"tunnel": "up", "envoy": "up", "reason": "\\u001b[31m"}', 422, "/reason"),
    "a reason without end": (b'{"tunnel": "up", "envoy": "up", "reason": "' + b"x" * 501 + b'"}', 422, "/reason"),
    "a long version": (b'{"tunnel": "up", "envoy": "up", "version": "' + b"1" * 65 + b'"}', 422, "/version"),
    "an unknown field": (b'{"tunnel": "up", "envoy": "up", "state": "healthy"}', 422, "/state"),
    "over 1 MiB": (b'{"tunnel": "up", "envoy": "up", "reason": "' + b"x" * 1024 * 1024 + b'"}', 413, None),
}


@pytest.mark.parametrize("case", BODIES)
async def test_bad_heartbeat_body_is_refused_and_not_stored(case, exit_proxy, demo):
    body, status, field = BODIES[case]
    headers = exit_proxy.sign(body, exit_proxy.path) | {"content-type": "application/json"}
    reply = await demo("POST", exit_proxy.path, body=body, headers=headers, peer="203.0.113.9")
    assert (reply.status, reply.is_problem) == (status, True)
    assert [error["field"] for error in reply.json["errors"]] == ([] if field is None else [field])
    assert reply.json["hint"]
    assert demo.context.heartbeat_sink.pending_count == 0
