"""The validation of requests: errors name the field, and nothing is stored."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

pytestmark = pytest.mark.slow

FLEET = {"name": "other", "listener": {"address": "127.0.0.1", "port": 8080}}
POOL = {"name": "jp", "fleet": "demo", "country": "jp"}
EXIT = {"name": "us-1", "pool": "us", "address": "198.51.100.7", "port": 8443}
NOWHERE = "00000000-0000-4000-8000-000000000000"

# the change of a valid body -> status, code, field, and the value that the error repeats
BAD_FIELDS = {
    "a fleet without a name": ("fleets", FLEET, {"name": ...}, 422, "invalid", "/name", None),
    "a name with capitals": ("fleets", FLEET, {"name": "Demo"}, 422, "invalid", "/name", "Demo"),
    "a name with a dot": ("fleets", FLEET, {"name": "a.b"}, 422, "invalid", "/name", "a.b"),
    "an empty name": ("fleets", FLEET, {"name": ""}, 422, "invalid", "/name", ""),
    "a name that ends with a hyphen": ("fleets", FLEET, {"name": "a-"}, 422, "invalid", "/name", "a-"),
    "a name with a line feed": ("fleets", FLEET, {"name": "a\n"}, 422, "invalid", "/name", "a\n"),
    "a name with NUL": ("fleets", FLEET, {"name": "a\0b"}, 422, "invalid", "/name", "a\0b"),
    "a name of another alphabet": ("fleets", FLEET, {"name": "д"}, 422, "invalid", "/name", "д"),
    "a name of 64 characters": ("fleets", FLEET, {"name": "a" * 64}, 422, "invalid", "/name", "a" * 64),
    "a name like an id": ("fleets", FLEET, {"name": NOWHERE}, 422, "invalid", "/name", NOWHERE),
    "a name like an id without hyphens": ("fleets", FLEET, {"name": "a" * 32}, 422, "invalid", "/name", "a" * 32),
    "a very long name, which is shortened": (
        *("fleets", FLEET, {"name": "x" * 10_000}, 422, "invalid", "/name"),
        "x" * 200 + "…",
    ),
    "a name that is a number": ("fleets", FLEET, {"name": 7}, 422, "invalid", "/name", 7),
    "a name that is null": ("fleets", FLEET, {"name": None}, 422, "invalid", "/name", None),
    "a name that is an object": ("fleets", FLEET, {"name": {"a": 1}}, 422, "invalid", "/name", "{…}"),
    "a name that is an unpaired surrogate": ("fleets", FLEET, {"name": "\ud800"}, 422, "invalid", "/name", "\ud800"),
    "an unknown field": ("fleets", FLEET, {"color": "red"}, 422, "invalid", "/color", "red"),
    "a name that is taken": ("fleets", FLEET, {"name": "demo"}, 409, "duplicate", "/name", "demo"),
    "a listener without a port": (
        *("fleets", FLEET, {"listener": {"address": "::1"}}, 422, "invalid"),
        *("/listener/port", None),
    ),
    "a listener that is a list": ("fleets", FLEET, {"listener": []}, 422, "invalid", "/listener", "[…]"),
    "an unknown field of a listener": (
        *("fleets", FLEET, {"listener": {"address": "::1", "port": 1, "a/b~": 2}}, 422, "invalid"),
        *("/listener/a~1b~0", 2),
    ),
    "a listener for everybody": (
        *("fleets", FLEET, {"listener": {"address": "0.0.0.0", "port": 80}}, 422, "invalid"),
        *("/listener/address", "0.0.0.0"),
    ),
    "a listener that is a host name": (
        *("fleets", FLEET, {"listener": {"address": "localhost", "port": 80}}, 422, "invalid"),
        *("/listener/address", "localhost"),
    ),
    "port 0": (
        *("fleets", FLEET, {"listener": {"address": "::1", "port": 0}}, 422, "invalid"),
        *("/listener/port", 0),
    ),
    "a share above 1": ("fleets", FLEET, {"tracing": {"share": 1.5}}, 422, "invalid", "/tracing/share", 1.5),
    "a share that would be rounded to 0": (
        *("fleets", FLEET, {"tracing": {"share": 0.00001}}, 422, "invalid"),
        *("/tracing", "{…}"),
    ),
    "an unknown fleet": ("pools", POOL, {"fleet": "nobody"}, 422, "unknown_fleet", "/fleet", "nobody"),
    "an unknown fleet by id": ("pools", POOL, {"fleet": NOWHERE}, 422, "unknown_fleet", "/fleet", NOWHERE),
    "a fleet that can be none": ("pools", POOL, {"fleet": "a\0"}, 422, "invalid", "/fleet", "a\0"),
    "a country of no such code": ("pools", POOL, {"country": "xx"}, 422, "invalid", "/country", "xx"),
    "a country by its name": ("pools", POOL, {"country": "Japan"}, 422, "invalid", "/country", "Japan"),
    "a country with NUL": ("pools", POOL, {"country": "j\0"}, 422, "invalid", "/country", "j\0"),
    "a country that is true": ("pools", POOL, {"country": True}, 422, "invalid", "/country", True),
    "a country that has a pool": ("pools", POOL, {"country": "us"}, 409, "duplicate", "/country", "us"),
    "a pool name that is taken": ("pools", POOL, {"name": "us"}, 409, "duplicate", "/name", "us"),
    "an unknown pool": ("exits", EXIT, {"pool": "nowhere"}, 422, "unknown_pool", "/pool", "nowhere"),
    "an unknown pool of a fleet": (
        *("exits", EXIT, {"pool": "nowhere", "fleet": "demo"}, 422, "unknown_pool"),
        *("/pool", "nowhere"),
    ),
    "a pool of an unknown fleet": ("exits", EXIT, {"fleet": "nobody"}, 422, "unknown_fleet", "/fleet", "nobody"),
    "a port that is too high": ("exits", EXIT, {"port": 65536}, 422, "invalid", "/port", 65536),
    "a port that is negative": ("exits", EXIT, {"port": -1}, 422, "invalid", "/port", -1),
    "a port that is a string": ("exits", EXIT, {"port": "8443"}, 422, "invalid", "/port", "8443"),
    "a port that is true": ("exits", EXIT, {"port": True}, 422, "invalid", "/port", True),
    "a port that is a fraction": ("exits", EXIT, {"port": 1.5}, 422, "invalid", "/port", 1.5),
    "a port that is enormous": ("exits", EXIT, {"port": 10**300}, 422, "invalid", "/port", "1" + "0" * 199 + "…"),
    "an address with a space": ("exits", EXIT, {"address": "a b"}, 422, "invalid", "/address", "a b"),
    "an address with an underscore": ("exits", EXIT, {"address": "a_b"}, 422, "invalid", "/address", "a_b"),
    "an address like an IPv4 address": (
        "exits",
        EXIT,
        {"address": "1.2.3.256"},
        422,
        "invalid",
        "/address",
        "1.2.3.256",
    ),
    "an address with a port": ("exits", EXIT, {"address": "a:80"}, 422, "invalid", "/address", "a:80"),
    "an address with an empty label": ("exits", EXIT, {"address": "a..b"}, 422, "invalid", "/address", "a..b"),
    "an empty address": ("exits", EXIT, {"address": ""}, 422, "invalid", "/address", ""),
    "an address of a long label": ("exits", EXIT, {"address": "a" * 64}, 422, "invalid", "/address", "a" * 64),
    "an address of too many labels": (
        *("exits", EXIT, {"address": "a." * 127 + "a"}, 422, "invalid", "/address"),
        "a." * 100 + "…",
    ),
    "an address that cannot be dialled": ("exits", EXIT, {"address": "0.0.0.0"}, 422, "invalid", "/address", "0.0.0.0"),
    "an address with a zone": ("exits", EXIT, {"address": "fe80::1%eth0"}, 422, "invalid", "/address", "fe80::1%eth0"),
    "a bind address that is a name": ("exits", EXIT, {"bind_address": "a"}, 422, "invalid", "/bind_address", "a"),
    "a bind address that is null": ("exits", EXIT, {"bind_address": None}, 422, "invalid", "/bind_address", None),
    "an egress address nobody has": ("exits", EXIT, {"egress_address": "::"}, 422, "invalid", "/egress_address", "::"),
    "a locality with capitals": ("exits", EXIT, {"locality": "EU"}, 422, "invalid", "/locality", "EU"),
    "a locality without a region": ("exits", EXIT, {"locality": "/a"}, 422, "invalid", "/locality", "/a"),
    "a locality without the zone it promises": ("exits", EXIT, {"locality": "eu/"}, 422, "invalid", "/locality", "eu/"),
    "a locality of three parts": ("exits", EXIT, {"locality": "eu/a/b"}, 422, "invalid", "/locality", "eu/a/b"),
    "a locality with a line feed": ("exits", EXIT, {"locality": "eu\n"}, 422, "invalid", "/locality", "eu\n"),
    "a locality with NUL": ("exits", EXIT, {"locality": "eu\0"}, 422, "invalid", "/locality", "eu\0"),
    "an empty locality": ("exits", EXIT, {"locality": ""}, 422, "invalid", "/locality", ""),
    "a region of 64 characters": ("exits", EXIT, {"locality": "a" * 64}, 422, "invalid", "/locality", "a" * 64),
    "a locality that is a list": ("exits", EXIT, {"locality": ["eu"]}, 422, "invalid", "/locality", "[…]"),
    "enabled by a word": ("exits", EXIT, {"enabled": "yes"}, 422, "invalid", "/enabled", "yes"),
}


def changed(body, change):
    return {key: value for key, value in (body | change).items() if value is not ...}


def assert_problem(reply, status, code):
    assert (reply.status, reply.json.get("code")) == (status, code), reply.body
    assert reply.is_problem
    problem = reply.json
    assert problem["status"] == status
    assert problem["type"] == f"urn:exitplane:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["hint"]
    for error in problem["errors"]:
        assert set(error) == {"field", "value", "message", "hint"}
        assert error["message"]
        assert error["hint"]


@pytest.mark.parametrize("case", BAD_FIELDS)
async def test_bad_field_is_named_and_nothing_is_stored(case, demo, stored):
    collection, body, change, status, code, field, value = BAD_FIELDS[case]
    before = await stored()
    reply = await demo("POST", f"/api/v1/{collection}", changed(body, change))
    assert_problem(reply, status, code)
    assert [(error["field"], error["value"]) for error in reply.json["errors"]] == [(field, value)]
    assert await stored() == before


@pytest.mark.parametrize("collection", ["fleets", "pools", "exits"])
async def test_base_of_bad_fields_is_valid(collection, demo):
    body = {"fleets": FLEET, "pools": POOL, "exits": EXIT}[collection]
    assert (await demo("POST", f"/api/v1/{collection}", body)).status == 201


async def test_number_of_reported_errors_is_bounded(demo):
    reply = await demo("POST", "/api/v1/exits", {"port": 0, "address": "a b"})
    assert {error["field"] for error in reply.json["errors"]} == {"/name", "/pool", "/port", "/address"}
    reply = await demo("POST", "/api/v1/exits", {f"unknown-{number}": 1 for number in range(1000)})
    assert len(reply.json["errors"]) == 20


PATCHES = {
    "a fleet to a wider bind": ("fleets/demo", {"listener": {"address": "192.0.2.1"}}, 422, "/listener/address"),
    "a fleet to no name": ("fleets/demo", {"name": None}, 422, "/name"),
    "a fleet to a name that is taken": ("fleets/demo", {"name": "taken"}, 409, "/name"),
    "a listener to null": ("fleets/demo", {"listener": None}, 422, "/listener"),
    "a pool to another fleet": ("pools/us", {"fleet": "taken"}, 422, "/fleet"),
    "a pool to no country": ("pools/us", {"country": "zz"}, 422, "/country"),
    "a pool to a country that is taken": ("pools/us", {"country": "de"}, 409, "/country"),
    "a pool to a name that is taken": ("pools/us", {"name": "de"}, 409, "/name"),
    "an exit to a pool of another fleet": ("exits/{id}", {"pool": "elsewhere"}, 422, "/pool"),
    "an exit to a name that is taken": ("exits/{id}", {"name": "us-2"}, 409, "/name"),
    "an exit to a port out of range": ("exits/{id}", {"port": 99999}, 422, "/port"),
    "an exit to a locality that can be none": ("exits/{id}", {"locality": "e u"}, 422, "/locality"),
    "an exit's state by hand": ("exits/{id}", {"state": "healthy"}, 422, "/state"),
}


@pytest.mark.parametrize("case", PATCHES)
async def test_bad_change_changes_nothing(case, demo, stored):
    await demo.declare("taken", "elsewhere", "jp")
    await demo("POST", "/api/v1/pools", {"name": "de", "fleet": "demo", "country": "de"})
    exit_id = (await demo.declare_exit())["id"]
    await demo.declare_exit(name="us-2")
    path, patch, status, field = PATCHES[case]
    path = f"/api/v1/{path.format(id=exit_id)}"
    before, shown = await stored(), (await demo("GET", path)).json
    # a valid field must not be stored when another one is not valid
    good = {"exits": {"bind_address": "127.0.0.9"}, "fleets": {}, "pools": {}}[path.split("/")[3]]
    reply = await demo("PATCH", path, good | patch)
    assert_problem(reply, status, reply.json["code"])
    assert [error["field"] for error in reply.json["errors"]] == [field]
    assert await stored() == before
    assert (await demo("GET", path)).json == shown


DEEP = b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BODIES = {
    "an empty body": (b"", 400),
    "no JSON": (b"name=demo", 400),
    "half an object": (b'{"name": "demo"', 400),
    "two objects": (b"{} {}", 400),
    "bytes that are no UTF-8": (b'{"name": "\xff"}', 400),
    "UTF-16": ('{"name": "demo"}'.encode("utf-16"), 400),
    "NaN": (b'{"name": NaN}', 400),
    "infinity": (b'{"name": -Infinity}', 400),
    "a number of 10,000 digits": (b'{"name": ' + b"9" * 10_000 + b"}", 400),
    "brackets nested 100,000 deep": (DEEP, 400),
    "brackets nested 500 deep": (b'{"name": ' + b"[" * 500 + b"]" * 500 + b"}", 422),
    "a list": (b'["demo"]', 422),
    "a string": (b'"demo"', 422),
    "null": (b"null", 422),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize(
    "request_line", ["POST /api/v1/fleets", "PATCH /api/v1/fleets/demo", "POST /api/v1/exits/register"]
)
async def test_body_that_is_no_json_object_is_refused(case, request_line, demo, stored):
    before = await stored()
    body, status = BODIES[case]
    method, path = request_line.split()
    reply = await demo(method, path, body=body, headers={"content-type": "application/json"})
    assert_problem(reply, status, "not_json" if status == 400 else "invalid")
    assert await stored() == before


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
async def test_body_of_another_content_type_is_refused(content_type, demo, stored):
    before = await stored()
    reply = await demo("POST", "/api/v1/fleets", FLEET, headers={"content-type": content_type})
    assert_problem(reply, 415, "not_json_type")
    assert await stored() == before


async def test_body_above_limit_is_refused(demo, stored):
    before = await stored()
    limit = 1024 * 1024
    padded = json.dumps(FLEET).encode()
    too_large = padded + b" " * (limit - len(padded) + 1)
    for given in ({"body": too_large}, {"chunks": [too_large[:500_000], too_large[500_000:]]}):
        assert_problem(await demo("POST", "/api/v1/fleets", **given), 413, "too_large")
    assert await stored() == before
    assert (await demo("POST", "/api/v1/fleets", chunks=[too_large[:-1]])).status == 201


async def test_endless_body_is_read_up_to_limit(demo):
    read = 0

    def endless():
        nonlocal read
        while read < 100:
            read += 1
            yield b" " * 65536

    class Lazily:
        """Send a chunk each time that the application receives."""

        def __init__(self):
            self.chunks = endless()

        async def __call__(self):
            return {"type": "http.request", "body": next(self.chunks), "more_body": True}

    sent = []

    async def send(message):
        sent.append(message)

    headers = [
        (b"host", b"localhost"),
        (b"authorization", f"Bearer {demo.credential}".encode()),
        (b"content-type", b"application/json"),
        (b"transfer-encoding", b"chunked"),
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/fleets",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    await demo.app(scope, Lazily(), send)
    assert sent[0]["status"] == 413
    assert read == 17


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("ref", ["nobody", NOWHERE, "A%20B", "%00", "%ff", "a" * 5000, "..", "register"])
@pytest.mark.parametrize("collection", ["fleets", "pools", "exits", "proxies"])
async def test_missing_item_is_not_found(method, ref, collection, demo, stored):
    before = await stored()
    reply = await demo(method, f"/api/v1/{collection}/{ref}", {} if method == "PATCH" else None)
    assert reply.is_problem
    kind, field = {
        "fleets": ("fleet", "{fleet}"),
        "pools": ("pool", "{pool}"),
        "exits": ("exit", "{exit_id}"),
        "proxies": ("proxy", "{proxy_id}"),
    }[collection]
    assert_problem(reply, 404, f"unknown_{kind}")
    assert [error["field"] for error in reply.json["errors"]] == [field]
    assert await stored() == before


@pytest.mark.parametrize("filter_", ["pools?fleet", "exits?pool", "exits?fleet", "proxies?fleet"])
async def test_bad_filter_is_refused(filter_, demo):
    reply = await demo("GET", f"/api/v1/{filter_}=%00")
    assert_problem(reply, 422, "invalid")
    assert [(error["field"], error["value"]) for error in reply.json["errors"]] == [("?" + filter_.split("?")[1], "\0")]


async def test_unknown_path_and_method_are_problems(api):
    assert_problem(await api("GET", "/api/v1/nothing"), 404, "no_such_path")
    assert_problem(await api("GET", "/api/v1/fleets/"), 404, "no_such_path")
    assert_problem(await api("GET", "/"), 404, "no_such_path")
    reply = await api("PUT", "/api/v1/fleets", FLEET)
    assert_problem(reply, 405, "no_such_method")
    assert "allow" in reply.headers
    assert_problem(await api("GET", "/api/v1/exits/x/heartbeat"), 405, "no_such_method")


async def test_unexpected_error_shows_no_internals(api, monkeypatch):
    def fail(*_):
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr("api.features.fleets.service.FleetCollection.show", fail)
    with capture_logs() as logged:
        reply = await api("GET", "/api/v1/fleets")
    assert_problem(reply, 500, "internal")
    assert b"hunter2" not in reply.body
    assert [(entry["event"], entry["path"], entry["exc_info"]) for entry in logged] == [
        ("api.request_failed", "/api/v1/fleets", True)
    ]


TOKEN = "ep-exit-" + "s3cret" * 8
SECRETIVE = {
    "in its own field": {"join_token": TOKEN},
    "twice, beside a field that is missing": {"join_token": TOKEN, "csr": TOKEN},
    "in a misspelt field": {"join_tokn": TOKEN},
    "in the wrong field": {"name": TOKEN, "join_token": "x"},
    "in a list": {"join_token": [TOKEN]},
    "of the wrong length": {"join_token": TOKEN * 100},
}


@pytest.mark.parametrize("case", SECRETIVE)
async def test_join_token_is_not_repeated(case, demo):
    reply = await demo("POST", "/api/v1/exits/register", SECRETIVE[case])
    assert reply.is_problem
    assert reply.json["errors"]
    assert b"s3cret" not in reply.body


async def test_allow_header_lists_all_methods(demo):
    reply = await demo("OPTIONS", "/api/v1/pools/us")
    assert (reply.status, reply.headers["allow"]) == (405, "DELETE, GET, PATCH, PUT")
