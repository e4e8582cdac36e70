"""Authorisation: a table of role x operation x own or foreign fleet, checked against every documented operation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model.repositories import declared
from model.tables import ProxyRow
from model.unit_of_work import write

BASE = "/api/v1"


class RequiredRight(IntEnum):
    """The right that an operation requires. A greater right includes the lesser ones."""

    NOBODY = 0
    ANYBODY = 1
    """Any authenticated caller, about themselves."""
    VIEWER = 2
    OPERATOR = 3
    ADMIN = 4
    """An admin of all fleets."""
    LOGIN = 5
    """An operator with a login session, about themselves."""


@dataclass(frozen=True)
class Rule:
    takes: RequiredRight
    of_fleets: bool = True
    """True if operators of some fleets may use it too."""


NOBODY, ANYBODY, VIEWER, OPERATOR, ADMIN, LOGIN = map(Rule, RequiredRight)
ALL_FLEETS = Rule(RequiredRight.OPERATOR, of_fleets=False)
READ_ALL_FLEETS = Rule(RequiredRight.VIEWER, of_fleets=False)


def collection(name, one, changes=OPERATOR, reads=VIEWER, creates=None):
    many, single = f"{BASE}/{name}", f"{BASE}/{name}/{{{one}}}"
    return {
        ("GET", many): reads,
        ("POST", many): creates or changes,
        ("POST", f"{many}/bulk"): changes,
        ("GET", single): reads,
        **{(method, single): changes for method in ("PATCH", "PUT", "DELETE")},
    }


TABLE = {
    **{("GET", path): NOBODY for path in ("/health", "/health/ready", "/health/startup")},
    **{("POST", f"{BASE}/auth/{name}"): NOBODY for name in ("login", "refresh")},
    **{("GET", f"{BASE}/auth/oidc/{name}"): NOBODY for name in ("login", "callback")},
    **{("POST", f"{BASE}/{name}/register"): NOBODY for name in ("exits", "proxies")},
    ("POST", f"{BASE}/exits/{{exit_id}}/heartbeat"): NOBODY,
    ("POST", f"{BASE}/proxies/{{proxy_id}}/heartbeat"): NOBODY,
    ("POST", f"{BASE}/exits/{{exit_id}}/certificate"): NOBODY,
    ("POST", f"{BASE}/proxies/{{proxy_id}}/certificate"): NOBODY,
    ("GET", f"{BASE}/auth/me"): ANYBODY,
    **{("POST", f"{BASE}/auth/{name}"): LOGIN for name in ("logout", "password", "totp", "totp/confirm")},
    ("DELETE", f"{BASE}/auth/totp"): LOGIN,
    **collection("fleets", "fleet", creates=ALL_FLEETS),
    ("DELETE", f"{BASE}/fleets/{{fleet}}"): ALL_FLEETS,
    **collection("pools", "pool"),
    **collection("exits", "exit_id"),
    **{("POST", f"{BASE}/exits/{{exit_id}}/{word}"): OPERATOR for word in ("drain", "enable", "disable")},
    **{("POST", f"{BASE}/exits/{{exit_id}}/{word}"): OPERATOR for word in ("rotate", "speed-test", "logs")},
    ("GET", f"{BASE}/exits/{{exit_id}}/orders/{{order_id}}"): VIEWER,
    ("GET", f"{BASE}/exits/{{exit_id}}/history"): VIEWER,
    ("GET", f"{BASE}/exits/best"): VIEWER,
    **{("POST", f"{BASE}/exits/{{exit_id}}/{word}"): OPERATOR for word in ("start", "stop", "restart")},
    **{("POST", f"{BASE}/pools/{{pool}}/containers/{word}"): OPERATOR for word in ("start", "stop", "restart")},
    ("GET", f"{BASE}/pools/{{pool}}/containers"): VIEWER,
    ("GET", f"{BASE}/exits/{{exit_id}}/container/logs"): VIEWER,
    **collection("proxies", "proxy_id"),
    **collection("listeners", "listener"),
    **collection("routes", "route"),
    **collection("users", "user"),
    ("POST", f"{BASE}/users/{{user}}/secrets"): OPERATOR,
    ("DELETE", f"{BASE}/users/{{user}}/secrets/{{secret_id}}"): OPERATOR,
    **collection("plans", "plan"),
    **collection("certificates", "certificate"),
    ("GET", f"{BASE}/authority/crl"): VIEWER,
    **collection("channels", "channel", ALL_FLEETS, READ_ALL_FLEETS),
    ("POST", f"{BASE}/channels/{{channel}}/test"): ALL_FLEETS,
    **collection("message-rules", "message_rule", ALL_FLEETS, READ_ALL_FLEETS),
    ("GET", f"{BASE}/messages"): READ_ALL_FLEETS,
    ("GET", f"{BASE}/messages/{{message_id}}"): READ_ALL_FLEETS,
    **collection("operators", "operator", ADMIN, ADMIN),
    **collection("api-keys", "api_key_id", ANYBODY, ANYBODY),
    **collection("join-tokens", "join_token_id"),
    ("GET", f"{BASE}/audit-events"): ADMIN,
    ("GET", f"{BASE}/audit-events/{{sequence}}"): ADMIN,
    ("GET", f"{BASE}/fleets/{{fleet}}/rollout"): VIEWER,
    ("PUT", f"{BASE}/fleets/{{fleet}}/rollout/approval"): OPERATOR,
    ("DELETE", f"{BASE}/fleets/{{fleet}}/rollout/approval"): OPERATOR,
    ("PUT", f"{BASE}/fleets/{{fleet}}/rollout/change-sets/{{change_set}}/release"): OPERATOR,
    ("GET", f"{BASE}/proxies/{{proxy_id}}/config"): VIEWER,
    ("GET", f"{BASE}/explain"): VIEWER,
    ("GET", f"{BASE}/discovery/prometheus"): VIEWER,
    ("GET", f"{BASE}/declared"): VIEWER,
    ("PUT", f"{BASE}/declared"): OPERATOR,
    ("GET", f"{BASE}/events"): VIEWER,
    ("POST", f"{BASE}/keepalive"): ALL_FLEETS,
    ("GET", f"{BASE}/status"): READ_ALL_FLEETS,
}
for absent in (
    *(("POST", f"{BASE}/{path}") for path in ("proxies", "proxies/bulk", "api-keys/bulk", "join-tokens/bulk")),
    *((method, f"{BASE}/join-tokens/{{join_token_id}}") for method in ("PATCH", "PUT")),
):
    del TABLE[absent]


NUMBERED_OR_SHARED = frozenset(
    {"operator", "api_key_id", "sequence", "channel", "message_rule", "message_id", "secret_id"}
)
"""Path parameters of things that belong to no fleet, or whose ids occur by chance."""


@dataclass(frozen=True)
class TwoFleets:
    """Two fleets with one object of every kind; path parameter -> id."""

    own: dict[str, str]
    foreign: dict[str, str]

    @property
    def foreign_ids(self):
        return {each for name, each in self.foreign.items() if name not in NUMBERED_OR_SHARED}


def certificate(name):
    key = ec.generate_private_key(ec.SECP256R1())
    now, subject = datetime.now(UTC), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "chain": made.public_bytes(serialization.Encoding.PEM).decode(),
        "key": key.private_bytes(*plain).decode(),
    }


async def create_one_of_each(api, database, fleet, port, somebody):
    """Create a fleet with one object of every kind; return path parameter -> id."""

    async def make(name, payload):
        reply = await api("POST", f"{BASE}/{name}", payload)
        assert reply.status == 201, reply.body
        return reply.json["id"]

    ids = {
        "fleet": await make("fleets", {"name": fleet, "listener": {"address": "127.0.0.1", "port": port}}),
        "pool": await make("pools", {"name": f"{fleet}-us", "fleet": fleet, "country": "us"}),
        "plan": await make("plans", {"name": "basic", "fleet": fleet}),
        "user": await make("users", {"name": "alice", "fleet": fleet}),
        "certificate": await make(
            "certificates", {"name": "gateway", "fleet": fleet, **certificate("gateway.example.net")}
        ),
        "listener": await make(
            "listeners", {"name": "de", "fleet": fleet, "address": "127.0.0.1", "port": port + 1, "country": "de"}
        ),
        "route": await make(
            "routes", {"name": "all", "fleet": fleet, "position": 5, "match": {}, "action": {"allow": True}}
        ),
    }
    ids["join_token_id"] = await make("join-tokens", {"fleet": fleet, "role": "exit"})
    payload = {"name": "us-1", "pool": ids["pool"], "address": "198.51.100.7", "port": 8443}
    ids["exit_id"] = await make("exits", payload)
    ids["order_id"] = (await api("POST", f"{BASE}/exits/{ids['exit_id']}/logs")).json["id"]
    ids["change_set"] = "0" * 24
    ids["secret_id"] = (await api("POST", f"{BASE}/users/{ids['user']}/secrets")).json["id"]
    ids["channel"] = await make("channels", {"name": f"{fleet}-ops", "url": f"ntfy://ntfy.example.net/{fleet}"})
    rule = {"name": fleet, "events": ["exit_lost"], "channels": [ids["channel"]]}
    ids["message_rule"] = await make("message-rules", rule)
    ids["message_id"] = str((await api("POST", f"{BASE}/channels/{ids['channel']}/test")).json["id"])
    async with write(database) as unit:
        gateway = ProxyRow(fleet_id=UUID(ids["fleet"]), name="gw-1", role="gateway", created_at=datetime.now(UTC))
        ids["proxy_id"] = str((await declared.save(unit, gateway)).id)
    keys = (await api.holding(somebody.key)("GET", f"{BASE}/api-keys")).json["items"]
    return {**ids, "operator": str(somebody.id), "api_key_id": keys[0]["id"], "sequence": "1"}


@pytest.fixture
async def world(api, database, make_operator):
    own = await create_one_of_each(api, database, "demo", 10_000, await make_operator("own", "operator"))
    foreign = await create_one_of_each(api, database, "foreign", 20_000, await make_operator("foreign", "operator"))
    return TwoFleets(own, foreign)


@pytest.fixture
async def document(api):
    return (await api.anonymous("GET", "/openapi.json")).json


@pytest.fixture
def operations(document):
    """Method, path and OpenAPI object of every operation."""
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


@pytest.fixture
def example(document):
    """`example(operation)`: the documented example body; None for an operation without a body."""

    def find(operation):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" in content:
            return content["example"]
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        if name == "CertificateIn":  # the document has no example, because a certificate expires
            return {"name": "gateway", "fleet": "demo", **certificate("gateway.example.net")}
        schema = document["components"]["schemas"].get(name, {})
        return schema["examples"][0] if "examples" in schema else {} if name else None

    return find


def fill_path(path, ids, operation):
    """Fill ids into a path, and make it a dry run where the operation has one."""
    for name, each in ids.items():
        path = path.replace(f"{{{name}}}", each)
    assert "{" not in path, path
    names = [parameter["name"] for parameter in operation.get("parameters", ())]
    wanted = [*(["dry_run=true"] if "dry_run" in names else []), *(["user=alice"] if "user" in names else [])]
    return f"{path}?{'&'.join(wanted)}" if wanted else path


def test_operations_and_rules_match_one_to_one(operations):
    assert {(method, path) for method, path, _ in operations} == set(TABLE)


def test_every_operation_documents_its_credential(operations):
    for method, path, operation in operations:
        takes = TABLE[method, path].takes
        security, responses = operation.get("security"), operation["responses"]
        if takes is not RequiredRight.NOBODY:
            assert {"operator": []} in security, (method, path)
            assert {"401", "403"} <= set(responses), (method, path)
        else:
            assert security in (None, [{"signature": []}]), (method, path)


async def test_unauthenticated_caller_gets_401_except_on_public_routes(api, operations, world, example, stored):
    before = await stored()
    for method, path, operation in operations:
        for body in (None, example(operation)):
            reply = await api.anonymous(method, fill_path(path, world.own, operation), body)
            closed = TABLE[method, path].takes is not RequiredRight.NOBODY
            assert (reply.status == 401 and reply.json["code"] == "not_authenticated") == closed, (method, path)
            if closed:
                assert reply.headers["www-authenticate"] == 'Bearer realm="exitplane"'
    assert await stored() == before


@pytest.mark.slow
@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
@pytest.mark.parametrize("scope", ["all", "own"])
async def test_role_may_exactly_what_the_table_says(
    role, scope, api, operations, world, example, make_operator, stored
):
    fleets = {"all": None, "own": [world.own["fleet"]]}[scope]
    mine = api.holding((await make_operator("somebody", role, fleet_ids=fleets)).key)
    before, wrong = await stored(), []
    for method, path, operation in operations:
        rule = TABLE[method, path]
        if rule.takes is RequiredRight.NOBODY:
            continue
        reply = await mine(method, fill_path(path, world.own, operation), example(operation))
        refused = reply.status == 403
        rank = {"viewer": RequiredRight.VIEWER, "operator": RequiredRight.OPERATOR, "admin": RequiredRight.ADMIN}[role]
        for_all = rule.takes is RequiredRight.ADMIN or not rule.of_fleets
        expected = rule.takes > rank or (for_all and scope != "all")
        if refused != expected or reply.status in (401, 500):
            wrong.append((method, path, reply.status, reply.body[:200]))
    assert wrong == []
    if role == "viewer":
        assert await stored() == before


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_foreign_fleet_reads_nonexistent(role, api, operations, world, example, make_operator, stored):
    """The reply is identical to that for an id that never existed."""
    mine = api.holding((await make_operator("somebody", role, fleet_ids=[world.own["fleet"]])).key)
    rank = RequiredRight.VIEWER if role == "viewer" else RequiredRight.OPERATOR
    before, wrong = await stored(), []
    for method, path, operation in operations:
        named = [name for name in world.foreign if f"{{{name}}}" in path]
        if not named or not RequiredRight.NOBODY < TABLE[method, path].takes <= rank:
            continue
        if not NUMBERED_OR_SHARED.isdisjoint(named) and not TABLE[method, path].of_fleets:
            continue  # it belongs to no fleet, and is refused as the table says
        absent = {name: str(uuid4()) for name in world.foreign}
        both = (world.foreign, absent)
        replies = [await mine(method, fill_path(path, ids, operation), example(operation)) for ids in both]
        texts = [reply.body.decode().replace(ids[named[0]], "X") for reply, ids in zip(replies, both, strict=True)]
        if [reply.status for reply in replies] != [404, 404] or texts[0] != texts[1]:
            wrong.append((method, path, [(reply.status, reply.body[:200]) for reply in replies]))
    assert wrong == []
    assert await stored() == before


async def test_lists_omit_objects_of_foreign_fleet(api, operations, world, make_operator):
    """This holds for every query, also for one that names the foreign fleet."""
    mine = api.holding((await make_operator("somebody", "operator", fleet_ids=[world.own["fleet"]])).key)
    wrong = []
    for method, path, operation in operations:
        if method != "GET" or "{" in path or TABLE[method, path].takes is RequiredRight.NOBODY:
            continue
        if path.endswith(("/operators", "/audit-events", "/status", "/channels", "/message-rules", "/messages")):
            continue  # these are for callers of all fleets, as the table says
        names = [parameter["name"] for parameter in operation.get("parameters", ())]
        for query in ("", *(["fleet=foreign", f"fleet={world.foreign['fleet']}"] if "fleet" in names else [])):
            where = fill_path(path, {}, operation)
            reply = await mine(method, f"{where}{'&' if '?' in where else '?'}{query}")
            seen = [each for each in world.foreign_ids if each.encode() in reply.body and each not in query]
            if reply.status not in (200, 404, 422, 409) or seen:
                wrong.append((path, query, reply.status, reply.body[:300]))
    assert wrong == []


async def test_nothing_is_created_in_or_moved_to_foreign_fleet(api, operations, world, example, make_operator, stored):
    mine = api.holding((await make_operator("somebody", "operator", fleet_ids=[world.own["fleet"]])).key)
    before, wrong = await stored(), []
    for method, path, operation in operations:
        payload = example(operation)
        if method not in ("POST", "PUT", "PATCH") or not payload or TABLE[method, path] != OPERATOR:
            continue
        for field in ("fleet", "pool"):
            for named in ("id", "name"):
                if field not in payload:
                    continue
                other = world.foreign[field] if named == "id" else {"fleet": "foreign", "pool": "foreign-us"}[field]
                body = {**payload, field: other}
                if field == "pool":
                    body.pop("fleet", None)
                reply = await mine(method, fill_path(path, world.own, operation), body)
                if reply.status not in (404, 422) or (reply.status == 422 and "unknown" not in reply.json["code"]):
                    wrong.append((method, path, field, named, reply.status, reply.body[:200]))
    assert [each for each in wrong if b'"immutable"' not in each[-1]] == []
    assert await stored() == before
