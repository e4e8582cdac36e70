"""Fleets, pools, exits and proxies: create, read, change, delete."""

from __future__ import annotations

from uuid import UUID

import pytest

from model.entities import Tracing
from model.repositories import worlds

LISTENER = {"address": "127.0.0.1", "port": 8080}


async def test_created_fleet_is_found_at_its_location(api):
    reply = await api("POST", "/api/v1/fleets", {"name": "demo", "listener": LISTENER})
    assert reply.status == 201
    assert reply.json["name"] == "demo"
    assert reply.json["listener"] == LISTENER
    assert reply.headers["location"] == f"/api/v1/fleets/{reply.json['id']}"
    assert (await api("GET", reply.headers["location"])).json == reply.json
    assert (await api("GET", "/api/v1/fleets/demo")).json == reply.json
    assert (await api("GET", "/api/v1/fleets")).json == {"items": [reply.json], "next": None}


async def test_writes_name_their_revision_and_reads_do_not(api):
    first = await api("POST", "/api/v1/fleets", {"name": "a", "listener": LISTENER})
    second = await api("POST", "/api/v1/fleets", {"name": "b", "listener": LISTENER})
    third = await api("DELETE", "/api/v1/fleets/a")
    assert (first.revision, second.revision, third.revision) == (1, 2, 3)
    assert "exitplane-revision" not in (await api("GET", "/api/v1/fleets")).headers


async def test_unchanged_patch_makes_no_revision(demo, stored):
    before = await stored()
    for patch in ({}, {"name": "demo"}, {"listener": {"port": 8080}}, {"listener": {}}):
        reply = await demo("PATCH", "/api/v1/fleets/demo", patch)
        assert (reply.status, reply.revision) == (200, before["revision"])
    assert await stored() == before


async def test_fleet_patch_changes_named_fields_only(demo):
    before = (await demo("GET", "/api/v1/fleets/demo")).json
    reply = await demo("PATCH", "/api/v1/fleets/demo", {"listener": {"port": 8081}})
    assert reply.status == 200
    assert reply.json == before | {"listener": {"address": "127.0.0.1", "port": 8081}}
    reply = await demo("PATCH", f"/api/v1/fleets/{before['id']}", {"name": "other"})
    assert (await demo("GET", "/api/v1/fleets/other")).json == reply.json
    assert (await demo("GET", "/api/v1/fleets/demo")).status == 404


async def test_tracing_of_fleet_is_replaced_as_a_whole_until_it_is_null(demo, database):
    for sent, shown in (
        ({"share": 0.25, "targets": True}, {"share": 0.25, "targets": True}),
        ({}, {"share": 1.0, "targets": False}),
        (None, None),
    ):
        reply = await demo("PATCH", "/api/v1/fleets/demo", {"tracing": sent})
        assert (reply.status, reply.json["tracing"]) == (200, shown)
        assert (await demo("GET", "/api/v1/fleets/demo")).json == reply.json
        (fleet,) = (await worlds.load(database)).fleets.values()
        assert fleet.tracing == (shown and Tracing(**shown))
    made = await demo("POST", "/api/v1/fleets", {"name": "traced", "tracing": {"share": 0}})
    assert (made.status, made.json["tracing"]) == (201, {"share": 0.0, "targets": False})


async def test_deleted_fleet_takes_listener_along_in_change_log(api, stored, query):
    await api("POST", "/api/v1/fleets", {"name": "demo", "listener": LISTENER})
    reply = await api("DELETE", "/api/v1/fleets/demo")
    assert (reply.status, reply.body) == (204, b"")
    assert (await stored())["listener"] == 0
    touched = await query("SELECT kind FROM change WHERE revision = :revision ORDER BY kind", revision=reply.revision)
    assert [row["kind"] for row in touched] == ["fleet", "listener"]


async def test_fleet_with_pools_is_not_deleted(demo, stored):
    before = await stored()
    reply = await demo("DELETE", "/api/v1/fleets/demo")
    assert (reply.status, reply.json["code"]) == (409, "in_use")
    assert "/api/v1/pools?fleet=demo" in reply.json["hint"]
    assert await stored() == before


async def test_fleet_with_gateways_is_not_deleted(gateway, demo, stored):
    await demo("DELETE", "/api/v1/pools/us?approve=shrink")
    before = await stored()
    reply = await demo("DELETE", "/api/v1/fleets/demo")
    assert (reply.status, reply.json["code"]) == (409, "in_use")
    assert "proxies" in reply.json["hint"]
    assert await stored() == before


async def test_countries_are_normalised(api):
    await api("POST", "/api/v1/fleets", {"name": "demo", "listener": LISTENER})
    for name, country, kept in (("a", "UK", "gb"), ("b", "JP", "jp"), ("c", "us", "us")):
        reply = await api("POST", "/api/v1/pools", {"name": name, "fleet": "demo", "country": country})
        assert (reply.status, reply.json["country"], reply.json["fleet"]) == (201, kept, "demo")


async def test_pool_is_changed_and_listed_by_fleet(demo):
    await demo.declare("other", "us", "us")
    assert {pool["fleet"] for pool in (await demo("GET", "/api/v1/pools")).json["items"]} == {"demo", "other"}
    assert [pool["fleet"] for pool in (await demo("GET", "/api/v1/pools?fleet=other")).json["items"]] == ["other"]
    reply = await demo("PATCH", "/api/v1/pools/us?fleet=other", {"name": "britain", "country": "uk"})
    assert (reply.status, reply.json["name"], reply.json["country"]) == (200, "britain", "gb")
    assert (await demo("GET", "/api/v1/pools/britain")).json == reply.json


async def test_ambiguous_pool_name_needs_fleet(demo, stored):
    await demo.declare("other", "us", "us")
    before = await stored()
    for method, body in (("GET", None), ("PATCH", {"country": "jp"}), ("DELETE", None)):
        reply = await demo(method, "/api/v1/pools/us", body)
        assert (reply.status, reply.json["code"]) == (409, "ambiguous")
        assert "demo, other" in reply.json["hint"]
    reply = await demo("POST", "/api/v1/exits", {"name": "x", "pool": "us", "address": "192.0.2.1", "port": 1})
    assert (reply.status, reply.json["code"], reply.json["errors"][0]["field"]) == (422, "ambiguous", "/pool")
    assert await stored() == before
    created = await demo.declare_exit(fleet="other")
    assert created["fleet"] == "other"


async def test_only_empty_pool_is_deleted(demo, stored):
    created = await demo.declare_exit()
    before = await stored()
    reply = await demo("DELETE", "/api/v1/pools/us")
    assert (reply.status, reply.json["code"]) == (409, "in_use")
    assert "/api/v1/exits?pool=us&fleet=demo" in reply.json["hint"]
    assert await stored() == before
    await demo("DELETE", f"/api/v1/exits/{created['id']}")
    before = await stored()
    reply = await demo("DELETE", "/api/v1/pools/us")
    assert (reply.status, reply.json["code"]) == (409, "would_shrink")
    assert "?approve=shrink" in reply.json["hint"]
    assert await stored() == before
    assert (await demo("DELETE", "/api/v1/pools/us?approve=shrink")).status == 204
    assert (await demo("GET", "/api/v1/fleets/demo/rollout")).json["shrink_approved"]


async def test_last_healthy_exit_needs_approval_to_stop(demo, query):
    created = await demo.declare_exit()
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    path = f"/api/v1/exits/{created['id']}"
    for method, body in (("PATCH", {"enabled": False}), ("DELETE", None)):
        reply = await demo(method, path, body)
        assert (reply.status, reply.json["code"]) == (409, "would_shrink")
        assert "0 of 1 healthy exits" in reply.json["detail"]
    assert (await demo("GET", path)).json["state"] == "healthy"
    assert (await demo("DELETE", f"{path}?approve=shrink")).status == 204


async def test_approval_is_given_and_withdrawn(demo):
    path = "/api/v1/fleets/demo/rollout"
    empty = {"complete": True, "shrink_approved": False, "groups": [], "rejections": []}
    assert (await demo("GET", path)).json == empty
    assert (await demo("PUT", f"{path}/approval")).json["shrink_approved"]
    assert (await demo("PUT", f"{path}/approval")).json["shrink_approved"]
    assert not (await demo("DELETE", f"{path}/approval")).json["shrink_approved"]
    assert (await demo("GET", "/api/v1/fleets/none/rollout")).json["code"] == "unknown_fleet"


async def test_declared_exit_is_registering_and_has_a_proxy(demo, clock):
    created = await demo.declare_exit(egress_address="192.0.2.10")
    assert created | {"id": 0, "pool_id": 0, "fleet_id": 0} == {
        "id": 0,
        "name": "us-1",
        "pool": "us",
        "pool_id": 0,
        "fleet": "demo",
        "fleet_id": 0,
        "country": "us",
        "address": "198.51.100.7",
        "endpoint": "198.51.100.7",
        "port": 8443,
        "bind_address": "0.0.0.0",
        "egress_address": "192.0.2.10",
        "locality": None,
        "weight": 1,
        "standby": False,
        "capacity": None,
        "cost": None,
        "monthly_cap_gb": None,
        "share": 1,
        "open_requests": 0,
        "month_gb": 0,
        "parent": None,
        "enabled": True,
        "state": "registering",
        "state_reason": "declared, no heartbeat yet",
        "state_since": "2026-01-01T12:00:00Z",
        "last_heartbeat_at": None,
        "observation": None,
        "rejections": [],
        "created_at": "2026-01-01T12:00:00Z",
    }
    assert (await demo("GET", f"/api/v1/exits/{created['id']}")).json == created
    assert (await demo("GET", "/api/v1/exits?pool=us&fleet=demo")).json == {"items": [created], "next": None}
    assert (await demo("GET", "/api/v1/exits?fleet=nobody")).json == {"items": [], "next": None}
    proxy = (await demo("GET", f"/api/v1/proxies/{created['id']}")).json
    assert (proxy["name"], proxy["role"], proxy["fleet"]) == ("us-1", "exit", "demo")


async def test_exit_host_name_has_no_endpoint_until_resolved(demo):
    created = await demo.declare_exit(address="Exit-1.Example.net")
    assert (created["address"], created["endpoint"]) == ("exit-1.example.net", None)
    reply = await demo("PATCH", f"/api/v1/exits/{created['id']}", {"address": "2001:DB8::1"})
    assert (reply.json["address"], reply.json["endpoint"]) == ("2001:db8::1", "2001:db8::1")


async def test_enabled_exit_waits_for_heartbeat(demo, clock, query):
    created = await demo.declare_exit()
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    path = f"/api/v1/exits/{created['id']}"
    assert (await demo("PATCH", path, {"enabled": True})).json["state"] == "healthy"
    clock.advance(minutes=1)
    off = (await demo("PATCH", f"{path}?approve=shrink", {"enabled": False})).json
    assert (off["enabled"], off["state"], off["state_reason"]) == (False, "disabled", "disabled by an operator")
    assert off["state_since"] == "2026-01-01T12:01:00Z"
    on = (await demo("PATCH", path, {"enabled": True})).json
    assert (on["enabled"], on["state"]) == (True, "registering")
    assert (await demo.declare_exit(name="us-2", enabled=False))["state"] == "disabled"


async def test_moved_exit_keeps_its_state(demo, query):
    created = await demo.declare_exit()
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    await demo("POST", "/api/v1/pools", {"name": "jp", "fleet": "demo", "country": "jp"})
    reply = await demo("PATCH", f"/api/v1/exits/{created['id']}", {"pool": "jp", "port": 9443, "egress_address": None})
    assert (reply.status, reply.json["pool"], reply.json["country"]) == (200, "jp", "jp")
    assert (reply.json["port"], reply.json["state"]) == (9443, "healthy")


async def test_renamed_exit_renames_its_proxy(demo):
    created = await demo.declare_exit()
    reply = await demo("PATCH", f"/api/v1/exits/{created['id']}", {"name": "us-9"})
    assert reply.json["name"] == "us-9"
    assert (await demo("GET", f"/api/v1/proxies/{created['id']}")).json["name"] == "us-9"


async def test_exit_names_are_unique_within_fleet(demo):
    await demo("POST", "/api/v1/pools", {"name": "jp", "fleet": "demo", "country": "jp"})
    await demo.declare("other", "de", "de")
    await demo.declare_exit(name="x")
    await demo.declare_exit(name="x", pool="de")
    body = {"name": "x", "pool": "jp", "address": "192.0.2.1", "port": 1}
    reply = await demo("POST", "/api/v1/exits", body)
    assert (reply.status, reply.json["code"], reply.json["errors"][0]["value"]) == (409, "duplicate", "x")


async def test_deleted_exit_takes_its_proxy_along(exit_proxy, demo, stored):
    await exit_proxy.beat()
    await demo.context.heartbeat_sink.flush()
    before = await stored()
    assert [before[table] for table in ("exit", "proxy", "certificate", "heartbeat")] == [1, 1, 1, 1]
    reply = await demo("DELETE", f"/api/v1/exits/{exit_proxy.id}")
    assert reply.status == 204
    after = await stored()
    assert [after[table] for table in ("exit", "proxy", "certificate", "heartbeat")] == [0, 0, 0, 0]
    assert (await demo("DELETE", f"/api/v1/exits/{exit_proxy.id}")).status == 404


async def test_gateway_is_listed_with_heartbeat_until_deleted(gateway, demo, clock):
    path = f"/api/v1/proxies/{gateway.id}"
    assert (await demo("GET", path)).json["connected"] is False
    await gateway.beat(version="0.1.0")
    await demo.context.heartbeat_sink.flush()
    shown = (await demo("GET", path)).json
    assert shown["connected"] is True
    assert shown["last_heartbeat"] == {
        "at": "2026-01-01T12:00:00Z",
        "tunnel": "up",
        "envoy": "up",
        "stopping": False,
        "reason": "",
        "version": "0.1.0",
    }
    assert (await demo("GET", "/api/v1/proxies?fleet=demo")).json == {"items": [shown], "next": None}
    clock.advance(seconds=31)
    assert (await demo("GET", path)).json["connected"] is False
    assert (await demo("DELETE", path)).status == 204
    assert (await demo("GET", path)).status == 404
    assert (await demo("GET", "/api/v1/proxies")).json == {"items": [], "next": None}


async def test_leaving_proxy_is_not_connected(gateway, demo):
    await gateway.beat(stopping=True)
    await demo.context.heartbeat_sink.flush()
    assert (await demo("GET", f"/api/v1/proxies/{gateway.id}")).json["connected"] is False


async def test_proxy_shows_sync_and_rejections(gateway, demo, clock, query):
    await query(
        "INSERT INTO sync (proxy_id, type_url, wanted_revision, wanted_at, sent_revision, sent_at, rejected_revision,"
        " rejected_at, detail) VALUES (:id, 't/Cluster', 7, :at, 7, :at, 7, :at, 'bad cluster') RETURNING detail",
        id=UUID(gateway.id),
        at=clock(),
    )
    for version in ("abc", "of old"):
        await query(
            "INSERT INTO proxy_rejection VALUES ('g', 't/Cluster', 'pool-us', :version, :id, 'bad cluster', :at) RETURNING name",
            id=UUID(gateway.id),
            at=clock(),
            version=version,
        )
    await query(
        'INSERT INTO rollout VALUES (\'g\', :id, \'[{"resources": [["t/Cluster", "pool-us", "abc"]]}]\', :at)'
        " RETURNING at",
        id=UUID(gateway.id),
        at=clock(),
    )
    shown = (await demo("GET", f"/api/v1/proxies/{gateway.id}")).json
    at = "2026-01-01T12:00:00Z"
    assert shown["sync"] == [
        {
            "type_url": "t/Cluster",
            "status": "rejected",
            "connected": False,
            "desired": {"revision": 7, "at": at},
            "sent": {"revision": 7, "at": at},
            "acknowledged": None,
            "rejected": {"revision": 7, "at": at},
            "detail": "bad cluster",
        }
    ]
    (refused,) = shown["rejections"]
    assert (refused["resource"], refused["version"], refused["detail"]) == ("pool-us", "abc", "bad cluster")
    assert (await demo("GET", "/api/v1/proxies")).json["items"] == [shown]


async def test_prefer_wait_reports_proxies(demo):
    reply = await demo(
        "POST", "/api/v1/pools", {"name": "jp", "fleet": "demo", "country": "jp"}, headers={"Prefer": "wait=5"}
    )
    assert reply.headers["preference-applied"] == "wait=5"
    assert reply.headers["exitplane-proxies"] == "acknowledged=0, rejected=0, pending=0"  # no proxy is connected
    reply = await demo("PATCH", "/api/v1/pools/jp", {"name": "japan"}, headers={"Prefer": "wait=soon"})
    assert "preference-applied" not in reply.headers


async def test_exit_proxy_is_not_deleted_alone(exit_proxy, demo, stored):
    before = await stored()
    reply = await demo("DELETE", f"/api/v1/proxies/{exit_proxy.id}")
    assert (reply.status, reply.json["code"]) == (409, "in_use")
    assert f"/api/v1/exits/{exit_proxy.id}" in reply.json["hint"]
    assert await stored() == before


async def test_exit_and_proxy_share_locality(demo):
    created = await demo.declare_exit(locality="eu-west/a")
    assert created["locality"] == "eu-west/a"
    path, proxy_path = f"/api/v1/exits/{created['id']}", f"/api/v1/proxies/{created['id']}"
    assert (await demo("GET", proxy_path)).json["locality"] == "eu-west/a"
    for patch, kept in (({"port": 9000}, "eu-west/a"), ({"locality": "us"}, "us"), ({"locality": None}, None)):
        assert (await demo("PATCH", path, patch)).json["locality"] == kept
        assert (await demo("GET", proxy_path)).json["locality"] == kept


async def test_unchanged_gateway_locality_makes_no_revision(gateway, demo, stored):
    path = f"/api/v1/proxies/{gateway.id}"
    before = (await demo("GET", path)).json
    assert before["locality"] is None
    moved = await demo("PATCH", path, {"locality": "eu-west/a"})
    assert (moved.status, moved.json) == (200, before | {"locality": "eu-west/a"})
    assert (await demo("GET", "/api/v1/proxies")).json == {"items": [moved.json], "next": None}
    counts = await stored()
    assert moved.revision == counts["revision"]
    for patch in ({}, {"locality": "eu-west/a"}):
        assert (await demo("PATCH", path, patch)).json == moved.json
    assert await stored() == counts
    assert (await demo("PATCH", path, {"locality": None})).json == before


async def test_gateway_name_and_fleet_are_immutable(gateway, demo, stored):
    before = await stored()
    for field in ("name", "fleet", "role"):
        reply = await demo("PATCH", f"/api/v1/proxies/{gateway.id}", {"locality": "eu", field: "x"})
        assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, [f"/{field}"])
    assert await stored() == before


async def test_exit_proxy_locality_is_immutable(exit_proxy, demo, stored):
    before = await stored()
    reply = await demo("PATCH", f"/api/v1/proxies/{exit_proxy.id}", {"locality": "eu"})
    assert (reply.status, reply.json["code"], reply.is_problem) == (409, "envoy_of_exit", True)
    assert f"PATCH /api/v1/exits/{exit_proxy.id}" in reply.json["hint"]
    assert [error["field"] for error in reply.json["errors"]] == ["{proxy_id}"]
    assert await stored() == before


async def test_revision_stores_valid_traceparent_only(api, query):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traces = {"a": trace, "b": "00-nonsense", "c": "00-" + "0" * 32 + "-b7ad6b7169203331-01", "d": trace + "\x00"}
    for name, header in traces.items():
        body = {"name": name, "listener": LISTENER}
        assert (await api("POST", "/api/v1/fleets", body, headers={"traceparent": header})).status == 201
    kept = await query("SELECT DISTINCT revision, traceparent FROM change ORDER BY revision")
    assert [row["traceparent"] for row in kept] == [trace, None, None, None]


async def test_config_of_proxy_without_stream_is_unknown(demo, gateway):
    shown = (await demo("GET", f"/api/v1/proxies/{gateway.id}/config")).json
    assert shown == {"proxy_id": str(gateway.id), "answered": False, "in_sync": None, "types": [], "sync": []}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("{id}/config?resource=", 422),
        ("{id}/config?resource=a%00b", 422),
        ("{id}/config?differences=maybe", 422),
        ("nobody/config", 404),
        ("3f2a7d9e-0000-4000-8000-000000000000/config", 404),
    ],
)
async def test_config_parameters_are_validated(demo, gateway, path, status):
    reply = await demo("GET", f"/api/v1/proxies/{path.format(id=gateway.id)}")
    assert reply.status == status
    assert reply.json["hint"]
