"""Concurrent writers: one of those that conflict succeeds, and no write is lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

pytestmark = pytest.mark.usefixtures("long_pool_timeout")
LISTENER = {"address": "127.0.0.1", "port": 8080}


async def test_one_of_fifty_creations_of_same_fleet_succeeds(api, stored):
    body = {"name": "demo", "listener": LISTENER}
    replies = await asyncio.gather(*(api("POST", "/api/v1/fleets", body) for _ in range(50)))
    assert Counter(reply.status for reply in replies) == {201: 1, 409: 49}
    refused = [reply.json for reply in replies if reply.status == 409]
    assert {(problem["code"], problem["errors"][0]["value"]) for problem in refused} == {("duplicate", "demo")}
    after = await stored()
    assert (after["revision"], after["fleet"], after["listener"], after["change"]) == (1, 1, 1, 2)


async def test_one_of_fifty_creations_of_same_exit_succeeds(demo, stored):
    body = {"name": "us-1", "pool": "us", "address": "198.51.100.7", "port": 8443}
    replies = await asyncio.gather(*(demo("POST", "/api/v1/exits", body) for _ in range(50)))
    assert Counter(reply.status for reply in replies) == {201: 1, 409: 49}
    after = await stored()
    assert (after["exit"], after["proxy"]) == (1, 1)


async def test_fifty_creations_make_fifty_consecutive_revisions(demo, stored):
    before = (await stored())["revision"]
    bodies = [{"name": f"us-{n}", "pool": "us", "address": f"198.51.100.{n}", "port": 8443} for n in range(50)]
    replies = await asyncio.gather(*(demo("POST", "/api/v1/exits", body) for body in bodies))
    assert {reply.status for reply in replies} == {201}
    assert sorted(reply.revision for reply in replies) == list(range(before + 1, before + 51))


@pytest.mark.slow
async def test_concurrent_changes_of_different_fields_are_kept(demo):
    path = f"/api/v1/exits/{(await demo.declare_exit())['id']}"
    patches = [{"port": 9000}, {"bind_address": "127.0.0.9"}, {"egress_address": "192.0.2.10"}, {"name": "renamed"}]
    replies = await asyncio.gather(*(demo("PATCH", path, patch) for patch in patches * 5))
    assert {reply.status for reply in replies} == {200}
    shown = (await demo("GET", path)).json
    assert [shown[field] for patch in patches for field in patch] == [9000, "127.0.0.9", "192.0.2.10", "renamed"]


async def test_new_exit_and_pool_removal_do_not_both_succeed(demo, stored):
    for n in range(10):
        await demo("POST", "/api/v1/pools", {"name": "jp", "fleet": "demo", "country": "jp"})
        body = {"name": f"jp-{n}", "pool": "jp", "address": "198.51.100.7", "port": 8443}
        made, removed = await asyncio.gather(demo("POST", "/api/v1/exits", body), demo("DELETE", "/api/v1/pools/jp"))
        assert (made.status, removed.status) in {(201, 409), (422, 204)}
        assert (await stored())["exit"] == (await stored())["proxy"]
        if made.status == 201:
            await demo("DELETE", f"/api/v1/exits/{made.json['id']}")


async def test_one_of_ten_deletions_of_same_exit_succeeds(demo):
    path = f"/api/v1/exits/{(await demo.declare_exit())['id']}"
    replies = await asyncio.gather(*(demo("DELETE", path) for _ in range(10)))
    assert Counter(reply.status for reply in replies) == {204: 1, 404: 9}
