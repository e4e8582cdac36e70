"""The release of a change-set in spite of rejections, and the display of proxies that reject alone."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest

CHANGE_SET = "0123456789abcdef01234567"


@pytest.fixture
async def withheld(demo, gateway, query, clock):
    """`await withheld()` stores a change-set that the gateway rejected; return its fleet's id."""

    async def make(*, rejected: bool = True, version: str = "bad") -> UUID:
        fleet_id = UUID((await demo("GET", "/api/v1/fleets/demo")).json["id"])
        group = f"gateway/{fleet_id}"
        change_set = {"change_set": CHANGE_SET, "given_to": "nobody", "reason": "no", "canaries": []}
        change_set |= {"resources": [["t/Cluster", "pool-us", version]], "rejected": rejected}
        await query(
            "INSERT INTO rollout VALUES (:group, :fleet, CAST(:sets AS jsonb), :at) RETURNING at",
            group=group,
            fleet=fleet_id,
            sets=json.dumps([change_set]),
            at=clock(),
        )
        await query(
            "INSERT INTO proxy_rejection VALUES (:group, 't/Cluster', 'pool-us', 'bad', :id, 'no', :at) RETURNING at",
            group=group,
            id=UUID(gateway.id),
            at=clock(),
        )
        return fleet_id

    return make


def release_path(change_set: str = CHANGE_SET) -> str:
    return f"/api/v1/fleets/demo/rollout/change-sets/{change_set}/release"


async def test_release_is_stored_once_and_audited(demo, withheld, query):
    fleet_id = await withheld()
    for _ in range(2):
        assert (await demo("PUT", release_path())).status == 200
    rows = await query('SELECT fleet_id, "group", change_set FROM rollout_override')
    assert rows == [{"fleet_id": fleet_id, "group": f"gateway/{fleet_id}", "change_set": CHANGE_SET}]
    entries = (await demo("GET", "/api/v1/audit-events")).json["items"]
    assert [entry["action"] for entry in entries if entry["kind"] == "override"] == ["created"]


async def test_unknown_change_set_is_404(demo, withheld):
    await withheld()
    reply = await demo("PUT", release_path("f" * 24))
    assert (reply.status, reply.json["code"]) == (404, "unknown_change_set")


async def test_change_set_withheld_for_another_reason_is_409(demo, withheld, query):
    await withheld(rejected=False)
    reply = await demo("PUT", release_path())
    assert (reply.status, reply.json["code"]) == (409, "not_rejected")
    assert await query("SELECT 1 FROM rollout_override") == []


async def test_deregistered_gateway_leaves_no_rejection(demo, gateway, withheld, query):
    await withheld()
    assert (await demo("GET", "/api/v1/fleets/demo/rollout")).json["rejections"][0]["proxy_id"] == gateway.id
    assert (await demo("DELETE", f"/api/v1/proxies/{gateway.id}")).status == 204
    assert await query("SELECT 1 FROM proxy_rejection") == []


@pytest.mark.parametrize("accepted", ["bad", "other"])
async def test_gateway_that_rejects_what_others_accept_is_shown(demo, gateway, withheld, query, clock, accepted):
    fleet_id = await withheld(version=str(uuid4()))
    await query(
        "INSERT INTO accepted VALUES (:group, 't/Cluster', 'pool-us', :version, '', :at) RETURNING at",
        group=f"gateway/{fleet_id}",
        version=accepted,
        at=clock(),
    )
    shown = (await demo("GET", f"/api/v1/proxies/{gateway.id}")).json
    alone = accepted == "bad"
    assert shown["rejects_accepted"] is alone
    assert [each["accepted_by_others"] for each in shown["rejections"]] == [True] * alone
    assert (await demo("GET", "/api/v1/fleets/demo/rollout")).json["rejections"] == shown["rejections"]
