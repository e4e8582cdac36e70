"""What operators ask agents to do: how an agent learns of it, and how what came of it is told."""

from __future__ import annotations

import pytest

EXITS = "/api/v1/exits"


@pytest.fixture
async def two(exit_proxy, demo, query):
    """An exit that enrolled, and another of its pool; both serve."""
    await demo.declare_exit(name="us-2")
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    return exit_proxy


async def order(demo, exit_, kind, query=""):
    reply = await demo("POST", f"{EXITS}/{exit_.id}/{kind}{query}")
    assert reply.status == 202, reply.json
    await demo.context.pending_orders.refresh()
    return reply


async def test_an_agent_learns_of_an_order_with_its_next_heartbeat(two, demo):
    assert "orders" not in (await two.beat()).json
    reply = await order(demo, two, "logs", "?lines=7")
    assert (await two.beat()).json["orders"] == [{"id": reply.json["id"], "kind": "logs", "detail": {"lines": 7}}]


async def test_an_agent_learns_where_another_server_has_to_be(two, demo):
    await order(demo, two, "rotate")
    (said,) = (await two.beat()).json["orders"]
    assert said["detail"] == {"country": "us"}


@pytest.mark.parametrize("kind", ["rotate", "speed-test", "logs"])
async def test_what_came_of_it_is_told_and_the_agent_is_not_asked_again(two, demo, kind):
    reply = await order(demo, two, kind)
    place = reply.headers["location"]
    assert (await demo("GET", place)).json["state"] == "pending"
    settled = [{"id": reply.json["id"], "outcome": {"server": "us-9"}}]
    heard = await two.beat(settled=settled)
    assert (heard.status, "orders" in heard.json) == (202, False)
    shown = (await demo("GET", place)).json
    assert (shown["state"], shown["outcome"], shown["kind"]) == ("done", {"server": "us-9"}, kind)
    await demo.context.pending_orders.refresh()
    assert "orders" not in (await two.beat()).json


async def test_an_order_that_failed_says_why_and_a_second_word_changes_nothing(two, demo):
    reply = await order(demo, two, "rotate")
    await two.beat(settled=[{"id": reply.json["id"], "outcome": {"half": 1}, "trouble": "it has one server only"}])
    await two.beat(settled=[{"id": reply.json["id"], "outcome": {"server": "us-9"}}])
    shown = (await demo("GET", reply.headers["location"])).json
    assert (shown["state"], shown["outcome"], shown["trouble"]) == ("failed", None, "it has one server only")


async def test_an_order_that_nobody_carries_out_expires(two, demo, clock):
    reply = await order(demo, two, "speed-test")
    clock.advance(seconds=301)
    assert (await demo("GET", reply.headers["location"])).json["state"] == "expired"
    assert not demo.context.pending_orders.find(two.id)


async def test_nobody_settles_the_order_of_another(two, demo, query):
    reply = await order(demo, two, "logs")
    other = (await demo("GET", f"{EXITS}/us-2")).json["id"]
    await query(f"UPDATE exit_order SET exit_id = '{other}' RETURNING id")
    await two.beat(settled=[{"id": reply.json["id"], "outcome": {}}])
    assert (await demo("GET", f"{EXITS}/us-2/orders/{reply.json['id']}")).json["state"] == "pending"


async def test_an_answer_that_is_too_long_is_not_kept(two, demo):
    reply = await order(demo, two, "logs")
    heard = await two.beat(settled=[{"id": reply.json["id"], "outcome": {"lines": ["x" * 300_000]}}])
    shown = (await demo("GET", reply.headers["location"])).json
    assert (heard.status, shown["state"], shown["trouble"]) == (202, "failed", "its answer is too long to be kept")


async def test_an_order_makes_no_revision_and_is_audited(two, demo):
    before = (await demo("GET", f"{EXITS}/us-2")).headers["etag"]
    first = await demo("POST", f"{EXITS}/{two.id}/logs")
    second = await demo("POST", f"{EXITS}/{two.id}/logs")
    assert first.revision == second.revision
    assert (await demo("GET", f"{EXITS}/us-2")).headers["etag"] == before
    actions = [each["action"] for each in (await demo("GET", "/api/v1/audit-events?limit=2")).json["items"]]
    assert "logs_ordered" in actions


async def test_the_only_exit_that_serves_is_rotated_by_approval_only(exit_proxy, demo):
    refused = await demo("POST", f"{EXITS}/{exit_proxy.id}/rotate")
    assert (refused.status, refused.json["code"]) == (409, "would_shrink")
    assert (await demo("POST", f"{EXITS}/{exit_proxy.id}/rotate?approve=shrink")).status == 202


async def test_a_dry_run_orders_nothing(two, demo):
    reply = await demo("POST", f"{EXITS}/{two.id}/logs?dry_run=true")
    assert (reply.status, reply.json["status"]) == (200, 202)
    await demo.context.pending_orders.refresh()
    assert "orders" not in (await two.beat()).json


async def test_an_order_that_never_was_is_told_so(two, demo):
    reply = await demo("GET", f"{EXITS}/{two.id}/orders/{two.id}")
    assert (reply.status, reply.json["code"]) == (404, "unknown_order")


# -- what gateways cut -------------------------------------------------------------------------------------------------


async def gone(gateway, *places):
    said = [{"address": address, "port": port} for address, port in places]
    return [(each["address"], each["port"]) for each in (await gateway.beat(gone=said)).json["cut"]]


@pytest.mark.parametrize(
    ("state", "cut"),
    [("leaking", True), ("draining", False), ("unreachable", False), ("verifying", False), ("disabled", False)],
)
async def test_tunnels_are_cut_that_go_through_an_exit_that_leaks(demo, gateway, query, state, cut):
    await demo.declare_exit(name="us-1", address="198.51.100.7", port=8443)
    await query(f"UPDATE exit SET state = '{state}' RETURNING id")
    place = ("198.51.100.7", 8443)
    assert await gone(gateway, place) == ([place] if cut else [])


async def test_tunnels_are_cut_that_go_through_an_exit_that_was_removed(demo, gateway):
    exit_ = await demo.declare_exit(name="us-1", address="198.51.100.7", port=8443)
    places = ("198.51.100.7", 8443), ("198.51.100.8", 8443)
    assert await gone(gateway, *places) == [places[1]]
    await demo("DELETE", f"{EXITS}/{exit_['id']}?approve=shrink")
    assert await gone(gateway, *places) == [*places]


async def test_a_gateway_asks_about_a_hundred_places_at_most(gateway):
    reply = await gateway.beat(gone=[{"address": "198.51.100.7", "port": 1}] * 101)
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (422, ["/gone"])


@pytest.mark.parametrize(
    "said",
    [{"open_requests": -1}, {"open_requests": 1.5}, {"carried_bytes": -1}, {"carried_bytes": 2**63}, {"gone": [{}]}],
)
async def test_impossible_numbers_of_an_exit_are_refused(exit_proxy, said):
    reply = await exit_proxy.beat(**said)
    assert (reply.status, reply.json["errors"][0]["field"].split("/")[1]) == (422, next(iter(said)))


async def test_what_an_exit_carries_is_shown(exit_proxy, demo):
    for carried in (1_000_000_000, 1_500_000_000, 250_000_000):
        await exit_proxy.beat(open_requests=3, carried_bytes=carried)
        await demo.context.heartbeat_sink.flush()
        demo.context.clock.advance(seconds=1)
    shown = (await demo("GET", f"{EXITS}/{exit_proxy.id}")).json
    assert (shown["open_requests"], shown["month_gb"]) == (3, 1.75)
