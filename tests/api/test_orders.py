"""Orders to agents: their delivery with heartbeats, and their results."""

from __future__ import annotations

import pytest

EXITS = "/api/v1/exits"


@pytest.fixture
async def exit_of_two(exit_proxy, demo, query):
    """An enrolled exit, whose pool has another serving exit."""
    await demo.declare_exit(name="us-2")
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    return exit_proxy


async def order(demo, exit_, kind, query=""):
    reply = await demo("POST", f"{EXITS}/{exit_.id}/{kind}{query}")
    assert reply.status == 202, reply.json
    await demo.context.pending_orders.refresh()
    return reply


async def test_heartbeat_reply_delivers_order(exit_of_two, demo):
    assert "orders" not in (await exit_of_two.beat()).json
    reply = await order(demo, exit_of_two, "logs", "?lines=7")
    assert (await exit_of_two.beat()).json["orders"] == [
        {"id": reply.json["id"], "kind": "logs", "detail": {"lines": 7}}
    ]


async def test_rotate_order_names_country_of_pool(exit_of_two, demo):
    await order(demo, exit_of_two, "rotate")
    (sent,) = (await exit_of_two.beat()).json["orders"]
    assert sent["detail"] == {"country": "us"}


@pytest.mark.parametrize("kind", ["rotate", "speed-test", "logs"])
async def test_result_is_shown_and_order_is_not_sent_again(exit_of_two, demo, kind):
    reply = await order(demo, exit_of_two, kind)
    place = reply.headers["location"]
    assert (await demo("GET", place)).json["state"] == "pending"
    results = [{"id": reply.json["id"], "outcome": {"server": "us-9"}}]
    beat_reply = await exit_of_two.beat(order_results=results)
    assert (beat_reply.status, "orders" in beat_reply.json) == (202, False)
    shown = (await demo("GET", place)).json
    assert (shown["state"], shown["outcome"], shown["kind"]) == ("done", {"server": "us-9"}, kind)
    await demo.context.pending_orders.refresh()
    assert "orders" not in (await exit_of_two.beat()).json


async def test_failed_order_shows_error_and_keeps_first_result(exit_of_two, demo):
    reply = await order(demo, exit_of_two, "rotate")
    await exit_of_two.beat(
        order_results=[{"id": reply.json["id"], "outcome": {"half": 1}, "error": "it has one server only"}]
    )
    await exit_of_two.beat(order_results=[{"id": reply.json["id"], "outcome": {"server": "us-9"}}])
    shown = (await demo("GET", reply.headers["location"])).json
    assert (shown["state"], shown["outcome"], shown["error"]) == ("failed", None, "it has one server only")


async def test_unanswered_order_expires(exit_of_two, demo, clock):
    reply = await order(demo, exit_of_two, "speed-test")
    clock.advance(seconds=301)
    assert (await demo("GET", reply.headers["location"])).json["state"] == "expired"
    assert not demo.context.pending_orders.find(exit_of_two.id)


async def test_exit_cannot_report_result_for_another_exit(exit_of_two, demo, query):
    reply = await order(demo, exit_of_two, "logs")
    other = (await demo("GET", f"{EXITS}/us-2")).json["id"]
    await query(f"UPDATE exit_order SET exit_id = '{other}' RETURNING id")
    await exit_of_two.beat(order_results=[{"id": reply.json["id"], "outcome": {}}])
    assert (await demo("GET", f"{EXITS}/us-2/orders/{reply.json['id']}")).json["state"] == "pending"


async def test_oversized_result_is_dropped(exit_of_two, demo):
    reply = await order(demo, exit_of_two, "logs")
    beat_reply = await exit_of_two.beat(order_results=[{"id": reply.json["id"], "outcome": {"lines": ["x" * 300_000]}}])
    shown = (await demo("GET", reply.headers["location"])).json
    assert (beat_reply.status, shown["state"], shown["error"]) == (
        202,
        "failed",
        "the result is longer than 262144 bytes, so it was dropped",
    )


async def test_order_is_audited_and_makes_no_revision(exit_of_two, demo):
    before = (await demo("GET", f"{EXITS}/us-2")).headers["etag"]
    first = await demo("POST", f"{EXITS}/{exit_of_two.id}/logs")
    second = await demo("POST", f"{EXITS}/{exit_of_two.id}/logs")
    assert first.revision == second.revision
    assert (await demo("GET", f"{EXITS}/us-2")).headers["etag"] == before
    actions = [each["action"] for each in (await demo("GET", "/api/v1/audit-events?limit=2")).json["items"]]
    assert "logs_ordered" in actions


async def test_rotating_only_serving_exit_needs_approval(exit_proxy, demo):
    refused = await demo("POST", f"{EXITS}/{exit_proxy.id}/rotate")
    assert (refused.status, refused.json["code"]) == (409, "would_shrink")
    assert (await demo("POST", f"{EXITS}/{exit_proxy.id}/rotate?approve=shrink")).status == 202


async def test_dry_run_sends_no_order(exit_of_two, demo):
    reply = await demo("POST", f"{EXITS}/{exit_of_two.id}/logs?dry_run=true")
    assert (reply.status, reply.json["status"]) == (200, 202)
    await demo.context.pending_orders.refresh()
    assert "orders" not in (await exit_of_two.beat()).json


async def test_unknown_order_is_404(exit_of_two, demo):
    reply = await demo("GET", f"{EXITS}/{exit_of_two.id}/orders/{exit_of_two.id}")
    assert (reply.status, reply.json["code"]) == (404, "unknown_order")


# -- connections to cut ------------------------------------------------------------------------------------------------


async def endpoints_to_cut(gateway, *places):
    endpoints = [{"address": address, "port": port} for address, port in places]
    return [
        (each["address"], each["port"])
        for each in (await gateway.beat(removed_endpoints=endpoints)).json["endpoints_to_cut"]
    ]


@pytest.mark.parametrize(
    ("state", "cut"),
    [("leaking", True), ("draining", False), ("unreachable", False), ("verifying", False), ("disabled", False)],
)
async def test_heartbeat_reply_cuts_tunnels_of_leaking_exit(demo, gateway, query, state, cut):
    await demo.declare_exit(name="us-1", address="198.51.100.7", port=8443)
    await query(f"UPDATE exit SET state = '{state}' RETURNING id")
    place = ("198.51.100.7", 8443)
    assert await endpoints_to_cut(gateway, place) == ([place] if cut else [])


async def test_heartbeat_reply_cuts_tunnels_of_removed_exit(demo, gateway):
    exit_ = await demo.declare_exit(name="us-1", address="198.51.100.7", port=8443)
    places = ("198.51.100.7", 8443), ("198.51.100.8", 8443)
    assert await endpoints_to_cut(gateway, *places) == [places[1]]
    await demo("DELETE", f"{EXITS}/{exit_['id']}?approve=shrink")
    assert await endpoints_to_cut(gateway, *places) == [*places]


async def test_removed_endpoints_are_limited_to_a_hundred(gateway):
    reply = await gateway.beat(removed_endpoints=[{"address": "198.51.100.7", "port": 1}] * 101)
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, ["/removed_endpoints"])


@pytest.mark.parametrize(
    "fields",
    [
        {"open_requests": -1},
        {"open_requests": 1.5},
        {"carried_bytes": -1},
        {"carried_bytes": 2**63},
        {"removed_endpoints": [{}]},
    ],
)
async def test_impossible_heartbeat_numbers_are_refused(exit_proxy, fields):
    reply = await exit_proxy.beat(**fields)
    assert (reply.status, reply.json["errors"][0]["field"].split("/")[1]) == (422, next(iter(fields)))


async def test_load_of_exit_is_shown(exit_proxy, demo):
    for carried in (1_000_000_000, 1_500_000_000, 250_000_000):
        await exit_proxy.beat(open_requests=3, carried_bytes=carried)
        await demo.context.heartbeat_sink.flush()
        demo.context.clock.advance(seconds=1)
    shown = (await demo("GET", f"{EXITS}/{exit_proxy.id}")).json
    assert (shown["open_requests"], shown["month_gb"]) == (3, 1.75)
