"""VPN Sentinel's clients: stand-ins send what the clients send and read what they read."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import urllib.request
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from uuid import uuid4

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from api.features.keepalives.keepalive_throttle import KeepaliveThrottle
from api.runtime.tokens import digest_of, new_key
from model.database import Database
from model.repositories import keepalives, operators
from model.tables import ApiKeyRow

pytestmark = pytest.mark.postgres
KEEPALIVE = "/api/v1/keepalive"
STATUS = "/api/v1/status"


def payload(client_id="office-vpn-primary", **fields):
    """Return the body of the Python client; the shell client sends no client_version."""
    return {
        "client_id": client_id,
        "timestamp": datetime.now().astimezone().strftime("%Y-%m-%dT%H:%M:%S%z"),
        "public_ip": "198.51.100.7",
        "status": "alive",
        "client_version": "1.2.3",
        "location": {
            "country": "RO",
            "city": "Bucharest",
            "region": "București",
            "org": "AS9009 M247 Europe SRL",
            "timezone": "Europe/Bucharest",
        },
        "dns_test": {"location": "RO", "colo": "OTP"},
    } | fields


FLAT = {
    "client_id": "flat",
    "public_ip": "2001:db8::7",
    "country": "JP",
    "city": "Tokyo",
    "region": "Tokyo",
    "provider": "AS64500 Example",
    "timezone": "Asia/Tokyo",
    "dns_loc": "JP",
    "dns_colo": "NRT",
}


@pytest.fixture
def make_key(database, admin, clock):
    """`await make_key(*scopes)`: an API key of the admin with these scopes."""

    async def make(*scopes, **fields):
        key = new_key()
        row = ApiKeyRow(
            operator_id=admin.id,
            name=str(uuid4()),
            digest=digest_of(key),
            role="admin",
            scopes=[*scopes],
            created_at=clock(),
            **fields,
        )
        async with database.session() as session:
            await operators.save(session, row)
        return key

    return make


@pytest.fixture
async def key(make_key):
    return await make_key("keepalive:write", "status:read")


@pytest.fixture
def sentinel(api, key):
    """Call the API with the key in the header that the client uses."""

    async def call(method, path, content=None, headers=None, **more):
        return await api.anonymous(method, path, content, headers={"X-API-Key": key} | (headers or {}), **more)

    return call


# -- clients ---------------------------------------------------------------------------------------------------------


def post_as_python_client(base_url, api_key, body, *, timeout_s=30, cafile=None):
    """Post as `post_payload` of the Python client does. Return 0 or, unless the status is a success, 1."""
    data = json.dumps(body, ensure_ascii=False).encode("utf-8")
    request = urllib.request.Request(f"{base_url}/api/v1/keepalive", data=data, method="POST")
    request.add_header("Content-Type", "application/json")
    if api_key:
        request.add_header("X-API-Key", api_key)
    context = ssl.create_default_context(cafile=cafile) if cafile else None
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as reply:
            return 0 if 200 <= reply.getcode() < 300 else 1
    except Exception:  # noqa: BLE001 - the client's own way
        return 1


async def post_as_shell_client(base_url, api_key, body):
    """Post with curl, as the shell client does. It takes any reply for success, so return the status."""
    curl = await asyncio.create_subprocess_exec(
        shutil.which("curl"),
        *("-X", "POST", f"{base_url}/api/v1/keepalive", "-H", "Content-Type: application/json"),
        *("-H", f"Authorization: Bearer {api_key}", "--max-time", "30", "-d", json.dumps(body, indent=2)),
        *("-s", "-o", "/dev/null", "-w", "%{http_code}"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await curl.communicate()
    assert curl.returncode == 0
    return int(out)


@asynccontextmanager
async def serving(api, until, **tls):
    config = uvicorn.Config(api.app, host="127.0.0.1", port=0, log_config=None, lifespan="off", **tls)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def test_python_client_works_unchanged(api, key, until, clock):
    async with serving(api, until) as address:
        assert await asyncio.to_thread(post_as_python_client, address, key, payload()) == 0
        assert await asyncio.to_thread(post_as_python_client, address, "", payload()) == 1
        assert await asyncio.to_thread(post_as_python_client, address, "wrong", payload()) == 1
        assert await asyncio.to_thread(post_as_python_client, address, key, payload("no id")) == 1
    seen = (await api("GET", STATUS)).json
    assert datetime.fromisoformat(seen["office-vpn-primary"].pop("last_seen")) == clock()
    assert seen == {
        "office-vpn-primary": {
            "ip": "198.51.100.7",
            "location": "Bucharest, București, RO",
            "provider": "AS9009 M247 Europe SRL",
            "country": "RO",
            "city": "Bucharest",
            "region": "București",
            "timezone": "Europe/Bucharest",
            "dns_loc": "RO",
            "dns_colo": "OTP",
            "client_version": "1.2.3",
        }
    }


async def test_python_client_works_over_tls_with_given_certificate(api, key, until, tmp_path):
    cert, private = make_certificate(tmp_path)
    async with serving(api, until, ssl_certfile=cert, ssl_keyfile=private) as address:
        assert await asyncio.to_thread(post_as_python_client, address, key, payload(), cafile=cert) == 0


def make_certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sentinel")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return os.fspath(cert), os.fspath(private)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_shell_client_works_unchanged(api, key, until):
    body = payload("shell")
    del body["client_version"]
    async with serving(api, until) as address:
        assert await post_as_shell_client(address, key, body) == 200
        assert await post_as_shell_client(address, "wrong", body) == 401
    assert (await api("GET", STATUS)).json["shell"]["client_version"] == "Unknown"


async def test_health_endpoint_of_client_is_public(api):
    for path in ("/health", "/health/startup"):
        assert (await api.anonymous("GET", path)).status == 200


# -- parsing ----------------------------------------------------------------------------------------------------------


async def test_reply_equals_that_of_vpn_sentinel_server(sentinel, clock):
    reply = await sentinel("POST", KEEPALIVE, payload())
    assert reply.status == 200
    content = reply.json
    assert datetime.fromisoformat(content.pop("server_time")) == clock()
    assert content == {"status": "ok", "message": "Keepalive received"}


async def test_flat_fields_equal_nested_fields(sentinel):
    assert (await sentinel("POST", KEEPALIVE, FLAT)).status == 200
    (seen,) = (await sentinel("GET", STATUS)).json.values()
    del seen["last_seen"]
    expected = {name: value for name, value in FLAT.items() if name not in {"client_id", "public_ip"}}
    assert seen == expected | {"ip": "2001:db8::7", "location": "Tokyo, Tokyo, JP", "client_version": "Unknown"}


async def test_last_keepalive_of_client_is_shown(sentinel, clock):
    await sentinel("POST", KEEPALIVE, payload())
    clock.advance(minutes=5)
    await sentinel("POST", KEEPALIVE, payload(public_ip="203.0.113.1"))
    (seen,) = (await sentinel("GET", STATUS)).json.values()
    assert (seen["ip"], datetime.fromisoformat(seen["last_seen"])) == ("203.0.113.1", clock())


@pytest.mark.parametrize(
    ("field", "value", "shown", "as_"),
    [
        ("public_ip", "unknown", "ip", "unknown"),
        ("public_ip", "not an address", "ip", "unknown"),
        ("public_ip", "fe80::1%eth0", "ip", "unknown"),
        ("public_ip", {"a": 1}, "ip", "unknown"),
        ("public_ip", 10**400, "ip", "unknown"),
        ("client_version", 5, "client_version", "Unknown"),
        ("client_version", "v" * 100_000, "client_version", "v" * 100),
        ("client_version", " a\x00b\ud800c\u202e\n ", "client_version", "abc"),
        ("client_version", "\x00", "client_version", "Unknown"),
        ("location", "nowhere", "city", "Unknown"),
        ("location", [], "city", "Unknown"),
        ("location", {"country": None}, "country", "Unknown"),
        ("location", {"country": "São Tomé & Príncipe"}, "country", "São Tomé & Príncipe"),
        ("dns_test", {"location": 1, "colo": []}, "dns_colo", "Unknown"),
        ("dns_test", None, "dns_loc", "Unknown"),
        ("something", {"new": True}, "city", "Bucharest"),
    ],
)
async def test_odd_values_are_cut_or_unknown_but_accepted(field, value, shown, as_, sentinel):
    reply = await sentinel("POST", KEEPALIVE, payload(**{field: value}))
    assert reply.status == 200, reply.body
    (seen,) = (await sentinel("GET", STATUS)).json.values()
    assert seen[shown] == as_


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [None, "", "  ", "a b", "a/b", "a" * 101, 5, ["a"], {"a": 1}, "ä", "a\nb", "\x00", "\ud800", True]
)
async def test_bad_client_id_is_refused(given, sentinel, query):
    reply = await sentinel("POST", KEEPALIVE, payload(given))
    assert (reply.status, reply.is_problem, reply.json["code"]) == (400, True, "invalid")
    assert reply.json["errors"][0]["field"] == "/client_id"
    assert await query("SELECT * FROM keepalive") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"a"',
        b"\xff",
        b"{}",
        b"NaN",
        b"[" * 100_000,
        b'{"client_id": 1' + b"0" * 9000 + b"}",
    ],
)
async def test_bad_keepalive_body_is_refused(body, sentinel):
    reply = await sentinel("POST", KEEPALIVE, body=body, headers={"content-type": "application/json"})
    assert (reply.status, reply.is_problem) == (400, True)


async def test_oversized_keepalive_is_refused(sentinel):
    reply = await sentinel("POST", KEEPALIVE, body=b" " * (1024 * 1024 + 1))
    assert (reply.status, reply.is_problem) == (413, True)


async def test_missing_key_or_key_without_scope_is_refused(api, make_key):
    nobody = await api.anonymous("POST", KEEPALIVE, payload())
    wrong = await api.anonymous("POST", KEEPALIVE, payload(), headers={"X-API-Key": new_key()})
    other = await make_key("pools:write", "status:read")
    foreign = await api.anonymous("POST", KEEPALIVE, payload(), headers={"X-API-Key": other})
    reader = await make_key("keepalive:write")
    blind = await api.anonymous("GET", STATUS, headers={"X-API-Key": reader})
    replies = [nobody, wrong, foreign, blind]
    assert [(reply.status, reply.json["code"]) for reply in replies] == [
        (401, "not_authenticated"),
        (401, "bad_api_key"),
        (403, "out_of_scope"),
        (403, "out_of_scope"),
    ]


@pytest.mark.parametrize("path", ["/api/v1/fleets", "/api/v1/status/", "/api/v1/statusx", "/api/v1/keepalive/x"])
async def test_x_api_key_header_is_ignored_elsewhere(path, api, admin):
    assert (await api.anonymous("GET", path, headers={"X-API-Key": admin.key})).status == 401


async def test_fleet_operator_cannot_see_clients(api, make_operator):
    person = await make_operator("ada", "operator", fleet_ids=[str(uuid4())])
    for method, path, body in (("GET", STATUS, None), ("POST", KEEPALIVE, payload())):
        reply = await api.holding(person.key)(method, path, body)
        assert (reply.status, reply.json["code"]) == (403, "not_allowed")


async def test_viewer_sees_clients_but_cannot_send_keepalives(api, make_operator):
    person = await make_operator("ada", "viewer")
    assert (await api.holding(person.key)("GET", STATUS)).status == 200
    assert (await api.holding(person.key)("POST", KEEPALIVE, payload())).status == 403


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_throttle_is_per_key(api, make_key, clock):
    api.app.state.keepalive_throttle = KeepaliveThrottle(clock, per_s=2, burst=4)
    keys = [await make_key("keepalive:write") for _ in range(2)]

    async def post(key):
        return await api.anonymous("POST", KEEPALIVE, payload(), headers={"X-API-Key": key})

    assert [(await post(keys[0])).status for _ in range(5)] == [200] * 4 + [429]
    refused = await post(keys[0])
    assert (refused.is_problem, refused.json["code"], refused.headers["retry-after"]) == (True, "too_many_calls", "1")
    assert (await post(keys[1])).status == 200
    clock.advance(seconds=1)
    assert [(await post(keys[0])).status for _ in range(3)] == [200, 200, 429]


async def test_client_limit_drops_longest_silent_clients(database, clock):
    for name in ("a", "b", "c"):
        clock.advance(seconds=1)
        await store(database, name, clock(), keep=3)
    clock.advance(seconds=1)
    await store(database, "a", clock(), keep=3)
    clock.advance(seconds=1)
    await store(database, "d", clock(), keep=3)
    async with database.session() as session:
        assert [client_id for client_id, _, _ in await keepalives.newest(session)] == ["a", "c", "d"]


async def test_client_limit_holds_for_concurrent_keepalives(database, clock):
    await asyncio.gather(*(store(database, f"c{number}", clock(), keep=5) for number in range(40)))
    await store(database, "last", clock.advance(seconds=1), keep=5)
    async with database.session() as session:
        kept = [client_id for client_id, _, _ in await keepalives.newest(session)]
    assert len(kept) == 5
    assert "last" in kept


async def store(database: Database, name: str, now: datetime, *, keep: int) -> None:
    async with database.session() as session:
        await keepalives.store(session, name, {}, now, keep=keep)


async def test_database_outage_is_503_with_retry_after(make_api, linked_database, key):
    database, link = linked_database
    api = make_api(database)
    assert (await api("POST", KEEPALIVE, payload())).status == 200
    await link.cut()
    reply = await api("POST", KEEPALIVE, payload())
    assert (reply.status, reply.is_problem) == (503, True)


# -- OpenAPI -----------------------------------------------------------------------------------------------------------


async def test_documented_example_is_accepted(api):
    document = (await api("GET", "/openapi.json")).json
    operation = document["paths"][KEEPALIVE]["post"]
    assert {"sentinel": []} in operation["security"]
    assert document["components"]["securitySchemes"]["sentinel"]["name"] == "X-API-Key"
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert (await api("POST", KEEPALIVE, example)).status == 200
