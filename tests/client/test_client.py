"""Tests of the typed client: completeness by the OpenAPI document, and behaviour over real connections."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import get_args

import pyotp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from api.features.api_keys.schemas import ApiKeyIn, ApiKeyPatch
from api.features.auth.schemas import LoginIn, PasswordIn, RefreshIn, TotpIn, TotpRemovalIn
from api.features.certificates.schemas import CertificateIn, CertificatePatch
from api.features.channels.schemas import ChannelIn, ChannelPatch
from api.features.declared.schemas import Declared
from api.features.exits.schemas import ExitIn, ExitPatch
from api.features.fleets.schemas import FirstListenerIn, FleetIn, FleetPatch
from api.features.join_tokens.schemas import JoinTokenIn
from api.features.keepalives.schemas import KeepaliveIn
from api.features.listeners.schemas import ListenerIn, ListenerPatch
from api.features.message_rules.schemas import MessageRuleIn, MessageRulePatch
from api.features.operators.schemas import OperatorIn, OperatorPatch
from api.features.plans.schemas import PlanIn, PlanPatch
from api.features.pools.schemas import PoolIn, PoolPatch
from api.features.proxies.schemas import ProxyIn, ProxyPatch
from api.features.routes.schemas import ActionIn, DenyIn, RouteIn, RoutePatch
from api.features.users.schemas import UserIn, UserPatch
from client import ApiRefused, ApiUnreachable, Client, ConvergenceTally, collect
from client.transport import Operation, Transport
from model.tables import ContainerRow, ProxyRow

PASSWORD = "correct horse battery"
OF_PROXIES = {
    *("register_exit", "register_proxy", "send_exit_heartbeat", "send_proxy_heartbeat"),
    *("renew_exit_certificate", "renew_proxy_certificate"),
}
POOL = PoolIn(name="us", fleet="demo", country="us")


@pytest.fixture
async def demo(api):
    await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
    return api


def certificate(name: str) -> CertificateIn:
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + timedelta(days=30))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return CertificateIn(
        name=name,
        fleet="demo",
        chain=builder.sign(key, hashes.SHA256()).public_bytes(pem).decode(),
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode(),
    )


# -- complete ----------------------------------------------------------------------------------------------------------


def operations_of(document):
    """Return the operations of an OpenAPI document that are for operators, by id: method, path, and the operation."""
    return {
        operation["operationId"].replace("-", "_"): (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation["operationId"] not in OF_PROXIES
    }


def takes(operation, name):
    return any(each["name"].lower() == name for each in operation.get("parameters", []))


def schema_of(kind):
    """Return the name of a schema in the document; for a mapping, that of its values."""
    if kind is None or kind is bytes:
        return None
    return re.sub(r"\W", "_", getattr(kind, "__name__", "") if not get_args(kind) else get_args(kind)[-1].__name__)


def schemas_in(content):
    written = json.dumps(content.get("application/json", {}).get("schema", {}))
    return set(re.findall(r'schemas/(\w+)"', written)) or set(re.findall(r'^{.*"title": "(\w+)"', written))


async def test_client_has_every_operation_of_the_openapi_document(plane, api):
    documented = operations_of(plane.app.openapi())
    known = {operation.id: operation for operation in api.operations()}
    assert known.keys() == documented.keys()
    for name, (method, path, operation) in documented.items():
        mine: Operation = known[name]
        assert (mine.method, mine.path, mine.takes_idempotency_key) == (
            method,
            path,
            takes(operation, "idempotency-key") and method == "POST",
        )
        body = schemas_in(operation.get("requestBody", {}).get("content", {}))
        assert body == ({schema_of(mine.body)} if mine.body else set()), name
        answers = {
            schema
            for status, response in operation["responses"].items()
            if status < "300"
            for schema in schemas_in(response.get("content", {}))
        }
        assert answers - {"DryRunOut"} == ({schema_of(mine.response)} - {None}), name
        assert ("DryRunOut" in answers) == takes(operation, "dry_run"), name


async def call_every_method(api: Client, plane, database):
    """Call each method of the client, and each dry run."""
    await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
    pool = await api.pools.create(POOL)
    bodies = {
        api.fleets: (lambda n: FleetIn(name=n), FleetPatch(name="fleet-2")),
        api.pools: (lambda n: PoolIn(name=n, fleet="demo", country="de", city=n), PoolPatch(country="fr")),
        api.exits: (
            lambda n: ExitIn(name=n, fleet="demo", pool="us", address="192.0.2.1", port=1),
            ExitPatch(port=2),
        ),
        api.listeners: (
            lambda n: ListenerIn(name=n, fleet="demo", address="127.0.0.1", port=9000 + ord(n)),
            ListenerPatch(country="de"),
        ),
        api.routes: (
            lambda n: RouteIn(name=n, fleet="demo", action=ActionIn(deny=DenyIn())),
            RoutePatch(enabled=False),
        ),
        api.users: (lambda n: UserIn(name=n, fleet="demo"), UserPatch(group="staff")),
        api.plans: (lambda n: PlanIn(name=n, fleet="demo"), PlanPatch(tunnels=3)),
        api.certificates: (certificate, CertificatePatch(name="renamed")),
        api.channels: (lambda n: ChannelIn(name=n, url="ntfy://ntfy.example.net/t"), ChannelPatch(name="renamed")),
        api.operators: (lambda n: OperatorIn(name=n, role="viewer"), OperatorPatch(role="operator")),
        api.api_keys: (lambda n: ApiKeyIn(name=n, role="viewer"), ApiKeyPatch(name="renamed")),
    }
    for collection, (make_body, patch) in bodies.items():
        first = make_body("a")
        await collection.try_create(first)
        made = await collection.create(first)
        await collection.try_change(made.id, patch)
        await collection.change(made.id, patch)
        await collection.try_replace(made.id, first)
        await collection.replace(made.id, first)
        assert (await collection.read(made.id)).id == made.id
        assert made.id in [each.id for each in await collect(collection.list())]
        if collection is not api.api_keys:
            await collection.try_bulk(create=[make_body("b")])
            await collection.bulk(create=[make_body("b")], delete=[made.id])
            made = (await collect(collection.list(name="b")))[0]
        await collection.try_delete(made.id)
        await collection.delete(made.id)
    user = await api.users.create(UserIn(name="alice", fleet="demo"))
    await api.users.try_create_secret(user.id)
    secret = await api.users.create_secret(user.id)
    assert (secret.secret or "")[0] == secret.id
    for remove in (api.users.try_revoke_secret, api.users.revoke_secret):
        await remove(user.id, secret.id)
    await call_every_method_of_messages(api)
    await api.join_tokens.try_create(JoinTokenIn(fleet="demo", role="exit"))
    token = await api.join_tokens.create(JoinTokenIn(fleet="demo", role="exit"))
    assert (await api.join_tokens.read(token.id)).id == (await collect(api.join_tokens.list()))[0].id
    for remove in (api.join_tokens.try_delete, api.join_tokens.delete):
        await remove(token.id)
    async with database.session() as session:
        gateway = ProxyRow(fleet_id=pool.fleet_id, name="gw", role="gateway", created_at=pool.created_at)
        session.add(gateway)
    await api.proxies.read((await collect(api.proxies.list()))[0].id)
    await api.proxies.config(gateway.id)
    for attempt in (api.proxies.try_change, api.proxies.change):
        await attempt(gateway.id, ProxyPatch(locality="eu"))
    for attempt in (api.proxies.try_replace, api.proxies.replace):
        await attempt(gateway.id, ProxyIn())
    for remove in (api.proxies.try_delete, api.proxies.delete):
        await remove(gateway.id)
    one = (await api.exits.create(ExitIn(name="x", fleet="demo", pool="us", address="192.0.2.1", port=1))).id
    for word in ("drain", "enable", "disable"):
        for switch in (api.exits.try_switch, api.exits.switch):
            await switch(word, one)
    await api.exits.history(one)
    with pytest.raises(ApiRefused, match="no exit in us serves"):
        await api.exits.best("us")
    for kind in ("rotate", "speed-test", "logs"):
        await api.exits.try_order(kind, one, approve="shrink")
        ordered = await api.exits.order(kind, one, approve="shrink")
    await api.exits.read_order(one, ordered.id)
    await call_every_method_of_containers(api, pool, one, database)
    for decide in (api.fleets.rollout, api.fleets.try_approve_shrink, api.fleets.approve_shrink):
        await decide("demo")
    for release in (api.fleets.try_release_change_set, api.fleets.release_change_set):
        with pytest.raises(ApiRefused, match="no rollout"):
            await release("demo", "0" * 24)
    for decide in (api.fleets.try_withdraw_approval, api.fleets.withdraw_approval):
        await decide("demo")
    entries = await collect(api.audit_events.list(limit=10))
    await api.audit_events.read(entries[0].sequence)
    declared = await api.declared.export()
    await api.declared.try_apply(declared)
    await api.declared.apply(declared)
    await api.explain("https://example.com/", country="us")
    await api.discover_targets()
    assert (await api.revocation_list()).startswith(b"-----BEGIN X509 CRL-----")
    assert x509.load_der_x509_crl(await api.revocation_list(der=True)).issuer
    for part in ("live", "ready", "startup"):
        await api.health(part)
    assert (await api.events.page(limit=1)).items[0].type == "fleet.created"
    await api.vpn_sentinel.keepalive(KeepaliveIn(client_id="office"))
    assert set(await api.vpn_sentinel.status()) == {"office"}
    await call_every_method_of_auth(api, plane)


async def call_every_method_of_messages(api: Client):
    channel = await api.channels.create(ChannelIn(name="ops", url="ntfy://ntfy.example.net/t"))
    await api.channels.try_test(channel.id)
    sent = await api.channels.test(channel.id)
    assert (await api.messages.read(sent.id)).id == (await collect(api.messages.list()))[0].id
    rules, body = api.message_rules, MessageRuleIn(name="lost", events=["exit_lost"], channels=["ops"])
    await rules.try_create(body)
    made = await rules.create(body)
    for change, given in ((rules.try_change, MessageRulePatch(for_s=9)), (rules.change, MessageRulePatch(for_s=9))):
        await change(made.id, given)
    for replace in (rules.try_replace, rules.replace):
        await replace(made.id, body)
    assert (await rules.read(made.id)).id == (await collect(rules.list()))[0].id
    other = MessageRuleIn(name="other", events=["exit_lost"], channels=["ops"])
    await rules.try_bulk(create=[other])
    await rules.bulk(create=[other], delete=[made.id])
    for delete in (rules.try_delete, rules.delete):
        await delete("other")


async def call_every_method_of_containers(api: Client, pool, exit_id, database):
    async with database.session() as session:
        session.add(ContainerRow(name="x", pool_id=pool.id, slot=1, started_at=pool.created_at))
    for verb in ("start", "stop", "restart"):
        for ask in (api.containers.try_command_exit, api.containers.command_exit):
            await ask(verb, exit_id)
        for ask in (api.containers.try_command_pool, api.containers.command_pool):
            await ask(verb, pool.id)
    assert [each.name for each in (await api.containers.list(pool.id)).containers] == ["x"]
    with pytest.raises(ApiRefused) as refused:  # no replica has an engine
        await api.containers.logs(exit_id)
    assert refused.value.code == "no_container_engine"


async def call_every_method_of_auth(api: Client, plane):
    tokens = await api.auth.log_in(LoginIn(name="admin", password=PASSWORD))
    tokens = await api.auth.refresh(RefreshIn(refresh_token=tokens.refresh_token))
    async with Client(plane.url, f"Bearer {tokens.access_token}") as mine:
        assert (await mine.auth.me()).name == "admin"
        secret = (await mine.auth.start_totp()).secret
        await mine.auth.confirm_totp(TotpIn(code=pyotp.TOTP(secret).at(datetime(2026, 1, 1, 12, tzinfo=UTC))))
        await mine.auth.remove_totp(TotpRemovalIn(password=PASSWORD))
        await mine.auth.change_password(PasswordIn(old=PASSWORD, new="staple battery horse"))
        await mine.auth.log_out()
    for ask in (api.auth.begin_oidc(), api.auth.finish_oidc(state="x", code="y")):
        with pytest.raises(ApiRefused) as refused:  # this API has no provider
            await ask
        assert refused.value.code != "no_such_path"


@pytest.mark.slow
async def test_every_operation_is_called_by_a_client_method(plane, api, database, monkeypatch):
    reached, tried = set(), set()
    plain = Transport._open

    def opened(self, operation, place, query, *rest):
        (tried if (query or {}).get("dry_run") else reached).add(operation.id)
        return plain(self, operation, place, query, *rest)

    monkeypatch.setattr(Transport, "_open", opened)
    await call_every_method(api, plane, database)
    documented = operations_of(plane.app.openapi())
    assert reached == documented.keys()
    assert tried == {name for name, (*_, operation) in documented.items() if takes(operation, "dry_run")}


# -- what it does ------------------------------------------------------------------------------------------------------


async def test_list_reads_all_pages(demo):
    users = [UserIn(name=f"u{n:03}", fleet="demo") for n in range(25)]
    await demo.users.bulk(create=users)
    listed = [user.name async for user in demo.users.list(fleet="demo", limit=10)]
    assert listed == [user.name for user in users]
    assert [each.name for each in await collect(demo.users.list(name="u01*", sort="-name", limit=4))][:2] == [
        "u019",
        "u018",
    ]


async def test_if_match_refuses_a_change_after_another_one(demo):
    await demo.pools.create(POOL)
    read = await demo.pools.read_with_etag("us", fleet="demo")
    await demo.pools.change("us", PoolPatch(country="gb"))
    with pytest.raises(ApiRefused) as refused:
        await demo.pools.change("us", PoolPatch(country="fr"), if_match=read.etag)
    assert (refused.value.status, refused.value.code) == (412, "changed_since")
    assert (await demo.pools.read(read.value.id)).country == "gb"


async def test_dry_run_changes_nothing(demo):
    tried = await demo.pools.try_create(POOL)
    assert (tried.status, tried.body["name"], await collect(demo.pools.list())) == (201, "us", [])


async def test_change_sends_only_set_fields_of_the_patch(demo):
    await demo.pools.create(POOL)
    changed = await demo.pools.change("us", PoolPatch(city="boston"))
    assert (changed.country, changed.city) == ("us", "boston")
    assert (await demo.pools.change("us", PoolPatch(city=None))).city is None


async def test_refusal_carries_the_apis_message(demo):
    with pytest.raises(ApiRefused) as refused:
        await demo.pools.create(PoolIn(name="x", fleet="nowhere", country="us"))
    error = refused.value
    assert (error.status, error.code, error.errors[0].field, error.errors[0].value) == (
        *(422, "unknown_fleet", "/fleet", "nowhere"),
    )
    assert '/fleet: there is no such fleet (it is "nowhere"); create it first' in str(error)


async def test_client_without_credential_is_refused(plane):
    async with Client(plane.url) as stranger:
        with pytest.raises(ApiRefused, match="Authorization") as refused:
            await stranger.pools.page()
    assert refused.value.code == "not_authenticated"


async def test_names_are_quoted_in_paths(demo):
    with pytest.raises(ApiRefused) as refused:
        await demo.pools.read("a/../../fleets")
    assert refused.value.code == "no_such_path"


async def test_waiting_write_returns_the_tally_of_proxies(demo):
    applied = await demo.declared.apply(Declared(pools=[POOL]), wait_s=1)
    assert (applied.revision, applied.proxies) == (2, ConvergenceTally(0, 0, 0))
    assert (await demo.declared.apply(Declared(pools=[POOL]))).proxies is None


async def test_events_are_streamed(plane, demo):
    async with aclosing(demo.events.follow(after=0)) as events:
        assert [(await anext(events)).type for _ in range(2)] == ["fleet.created", "listener.created"]


# -- when the API is away ----------------------------------------------------------------------------------------------


@pytest.fixture
async def flaky():
    """A client, the replies of its server (a status, or None to hang up), the requests it received, and the client's pauses."""
    replies, requests = [], []

    async def answer(request):
        requests.append((request.method, request.path, request.headers.get("Idempotency-Key")))
        status = replies.pop(0)
        if status is None:
            request.transport.abort()
            return web.Response()
        if status == 503:
            problem = {"code": "database_unreachable", "detail": "away", "hint": "wait", "errors": []}
            return web.json_response(problem, status=503, headers={"Retry-After": "2"})
        if status == 502:
            return web.Response(status=502, text="<html>Bad Gateway</html>")
        return web.json_response({"items": [], "next": None} if request.method == "GET" else POOL_OUT, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    async with Client(f"http://{host}:{port}", sleep=sleep) as client:
        yield client, replies, requests, pauses
    await runner.cleanup()


POOL_OUT = {
    "id": "0b0f5a5e-0f3e-4a52-8d5c-0c5a3f0e9b11",
    "fleet_id": "0b0f5a5e-0f3e-4a52-8d5c-0c5a3f0e9b12",
    "name": "us",
    "fleet": "demo",
    "country": "us",
    "city": None,
    "only_by_name": False,
    "allow_unverified": False,
    "balancing": {},
    "resilience": {},
    "containers": None,
    "containers_state": None,
    "rejections": [],
    "rejects_accepted": False,
    "created_at": "2026-01-01T00:00:00Z",
}


async def test_repeatable_request_is_retried_while_the_api_is_away(flaky):
    client, replies, requests, pauses = flaky
    replies += [503, None, 200]
    assert (await client.pools.page()).items == []
    assert len(requests) == 3
    assert 2 <= pauses[0] <= 2.5


async def test_retried_creation_keeps_its_idempotency_key(flaky):
    client, replies, requests, _ = flaky
    replies += [503, None, 201, 201]
    await client.pools.create(POOL)
    await client.pools.create(POOL)
    keys = [key for *_, key in requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert None not in keys


async def test_change_with_lost_reply_is_not_retried(flaky):
    client, replies, requests, _ = flaky
    replies += [None]
    with pytest.raises(ApiUnreachable, match="broke"):
        await client.pools.change("us", PoolPatch(country="gb"))
    assert len(requests) == 1


async def test_client_gives_up_after_five_attempts(flaky):
    client, replies, requests, pauses = flaky
    replies += [503] * 10
    with pytest.raises(ApiRefused) as refused:
        await client.pools.page()
    assert (refused.value.code, len(requests), len(pauses)) == ("database_unreachable", 5, 4)


async def test_another_server_is_reported_as_no_exitplane(flaky):
    client, replies, _, _ = flaky
    replies += [502, 200, 502]
    with pytest.raises(ApiUnreachable, match="not an Exitplane"):
        await client.pools.page()
    with pytest.raises(ApiUnreachable, match="not an Exitplane"):
        await client.explain("example.com")
    with pytest.raises(ApiUnreachable, match="not an Exitplane"):
        await client.json.get("/auth/me")


async def test_missing_field_of_another_api_version_is_named(flaky):
    client, replies, _, _ = flaky
    replies += [200]
    found = await client.json.get("/auth/me")
    with pytest.raises(ApiUnreachable, match="has no fleets; use the same version on both sides"):
        found["fleets"]


async def test_missing_api_is_reported_as_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ApiUnreachable, match="does not answer"):
            await client.pools.page()


async def test_concurrent_changes_with_if_match_lose_no_update(demo):
    await demo.pools.create(POOL)

    async def add(number):
        while True:
            read = await demo.pools.read_with_etag("us")
            city = (read.value.city or "") + "x"
            try:
                return await demo.pools.change("us", PoolPatch(city=city), if_match=read.etag)
            except ApiRefused as refused:
                if refused.code != "changed_since":
                    raise

    await asyncio.gather(*(add(number) for number in range(12)))
    assert (await demo.pools.read("us")).city == "x" * 12
