"""The OpenAPI document: what it promises holds."""

from __future__ import annotations

import json

import pytest


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


async def test_every_operation_of_the_first_slice_is_documented(document):
    collections = {
        "/api/v1/fleets": "get post",
        "/api/v1/fleets/{fleet}": "delete get patch",
        "/api/v1/fleets/{fleet}/rollout": "get",
        "/api/v1/fleets/{fleet}/rollout/approval": "delete put",
        "/api/v1/pools": "get post",
        "/api/v1/pools/{pool}": "delete get patch",
        "/api/v1/exits": "get post",
        "/api/v1/exits/{exit_id}": "delete get patch",
        "/api/v1/exits/register": "post",
        "/api/v1/exits/{exit_id}/heartbeat": "post",
        "/api/v1/proxies": "get",
        "/api/v1/proxies/{proxy_id}": "delete get patch",
        "/api/v1/proxies/{proxy_id}/config": "get",
        "/api/v1/proxies/register": "post",
        "/api/v1/proxies/{proxy_id}/heartbeat": "post",
        "/health": "get",
        "/health/ready": "get",
        "/health/startup": "get",
    }
    assert {path: " ".join(sorted(methods)) for path, methods in document["paths"].items()} == collections
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(names) == len(set(names))


async def test_refusals_are_documented_as_problems_and_only_so(document):
    for (_, path), operation in operations(document).items():
        if path.startswith("/health"):
            continue
        refusals = {int(status): response for status, response in operation["responses"].items() if int(status) >= 400}
        assert 503 in refusals, path
        assert all(list(response["content"]) == ["application/problem+json"] for response in refusals.values()), path
        if "requestBody" in operation:
            assert {400, 413, 415, 422} <= set(refusals), path
        if "/heartbeat" not in path and "/register" not in path:
            assert {403, 421} <= set(refusals), path
    assert "HTTPValidationError" not in str(document)


async def test_the_examples_of_the_document_work(document, api):
    def example(path, method):
        content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
        name = content["schema"]["$ref"].rpartition("/")[2]
        (given,) = document["components"]["schemas"][name]["examples"]
        return given

    made = {}
    for collection in ("fleets", "pools", "exits"):
        path = f"/api/v1/{collection}"
        reply = await api("POST", path, example(path, "post"))
        assert reply.status == 201, reply.body
        made[collection] = reply.json["id"]
    for path in ("/api/v1/fleets/{fleet}", "/api/v1/pools/{pool}", "/api/v1/exits/{exit_id}"):
        collection = path.split("/")[3]
        reply = await api("PATCH", f"/api/v1/{collection}/{made[collection]}", example(path, "patch"))
        assert reply.status == 200, reply.body


async def test_the_example_of_a_change_of_a_gateway_works(document, gateway, demo):
    (example,) = document["components"]["schemas"]["ProxyPatch"]["examples"]
    reply = await demo("PATCH", f"/api/v1/proxies/{gateway.id}", example)
    assert reply.status == 200
    assert reply.json["locality"] == example["locality"]


async def test_the_examples_of_heartbeats_work(document, exit_proxy, gateway):
    paths = {"/api/v1/exits/{exit_id}/heartbeat": exit_proxy, "/api/v1/proxies/{proxy_id}/heartbeat": gateway}
    for path, proxy in paths.items():
        operation = document["paths"][path]["post"]
        assert operation["security"] == [{"proof": []}]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert (await proxy.beat_raw(json.dumps(example).encode())).status == 202


async def test_the_documentation_is_a_page(api):
    reply = await api("GET", "/docs")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_optional_fields_of_changes_are_not_said_to_take_null(document):
    schemas = document["components"]["schemas"]
    takes_null = {"ExitPatch": ["egress_address", "locality"], "ProxyPatch": ["locality"]}
    for name in ("FleetPatch", "PoolPatch", "ExitPatch", "ProxyPatch"):
        nullable = [field for field, schema in schemas[name]["properties"].items() if "null" in str(schema)]
        assert nullable == takes_null.get(name, [])
        assert "required" not in schemas[name]
