"""The OpenAPI document: its operations, errors and examples."""

from __future__ import annotations

import json
import re

import pytest

from tests.api.certificates import certificate


@pytest.fixture
async def document(api):
    reply = await api("GET", "/openapi.json")
    assert reply.status == 200
    return reply.json


def operations(document):
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


COLLECTIONS = {
    "fleets": "{fleet}",
    "plans": "{plan}",
    "pools": "{pool}",
    "exits": "{exit_id}",
    "listeners": "{listener}",
    "routes": "{route}",
    "users": "{user}",
    "certificates": "{certificate}",
    "channels": "{channel}",
    "message-rules": "{message_rule}",
}


async def test_every_collection_has_every_operation(document):
    paths = {path: " ".join(sorted(methods)) for path, methods in document["paths"].items()}
    for name, place in COLLECTIONS.items():
        assert paths[f"/api/v1/{name}"] == "get post"
        assert paths[f"/api/v1/{name}/bulk"] == "post"
        assert paths[f"/api/v1/{name}/{place}"] == "delete get patch put"
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(names) == len(set(names))


async def test_every_operation_and_response_has_a_description(document):
    for (method, path), operation in operations(document).items():
        text = operation.get("description", "")
        assert text.endswith("."), (method, path)
        assert not re.search(r"[{}]", re.sub(r"`[^`]*`", "", text)), (method, path, text)
        assert all(response["description"] for response in operation["responses"].values()), (method, path)
    described = operations(document)["patch", "/api/v1/api-keys/{api_key_id}"]["description"]
    assert described.startswith("Change the fields of an API key that are sent, and keep the others.")


async def test_errors_are_documented_as_problems(document):
    for (_, path), operation in operations(document).items():
        if path.startswith("/health"):
            continue
        refusals = {int(status): response for status, response in operation["responses"].items() if int(status) >= 400}
        assert 503 in refusals, path
        assert all(list(response["content"]) == ["application/problem+json"] for response in refusals.values()), path
        if "requestBody" in operation:
            assert {400, 413, 415, 422} <= set(refusals), path
        if "/heartbeat" not in path and "/register" not in path:
            assert 401 in refusals or "/auth/" in path, path
    assert "HTTPValidationError" not in str(document)


async def test_examples_work(document, api):
    def example(path, method):
        content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
        name = content["schema"]["$ref"].rpartition("/")[2]
        (given,) = document["components"]["schemas"][name]["examples"]
        return given

    made = {}
    for name in COLLECTIONS:
        path = f"/api/v1/{name}"
        body = example(path, "post") if name != "certificates" else {"name": "c", "fleet": "demo", **certificate()}
        reply = await api("POST", path, body)
        assert reply.status == 201, reply.body
        assert (await api("PUT", f"{path}/{reply.json['id']}", body)).json["name"] == body["name"]
        made[name] = reply.json["id"]
    for name, place in COLLECTIONS.items():
        path = f"/api/v1/{name}"
        reply = await api("PATCH", f"{path}/{made[name]}", example(f"{path}/{place}", "patch"))
        assert reply.status == 200, reply.body


async def test_gateway_patch_example_works(document, gateway, demo):
    (example,) = document["components"]["schemas"]["ProxyPatch"]["examples"]
    reply = await demo("PATCH", f"/api/v1/proxies/{gateway.id}", example)
    assert reply.status == 200
    assert reply.json["locality"] == example["locality"]


async def test_heartbeat_examples_work(document, exit_proxy, gateway):
    paths = {"/api/v1/exits/{exit_id}/heartbeat": exit_proxy, "/api/v1/proxies/{proxy_id}/heartbeat": gateway}
    for path, proxy in paths.items():
        operation = document["paths"][path]["post"]
        assert operation["security"] == [{"signature": []}]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert (await proxy.beat_raw(json.dumps(example).encode())).status == 202


async def test_docs_is_an_html_page(api):
    reply = await api("GET", "/docs")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_optional_patch_fields_take_no_null(document):
    schemas = document["components"]["schemas"]
    takes_null = {
        "FleetPatch": ["tracing"],
        "ExitPatch": ["egress_address", "locality", "capacity", "cost", "monthly_cap_gb", "parent"],
        "ProxyPatch": ["locality"],
        "PoolPatch": ["city", "containers"],
    }
    for name in ("FleetPatch", "PoolPatch", "ExitPatch", "ProxyPatch"):
        nullable = [field for field, schema in schemas[name]["properties"].items() if "null" in str(schema)]
        assert nullable == takes_null.get(name, [])
        assert "required" not in schemas[name]
