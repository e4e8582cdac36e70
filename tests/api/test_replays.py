"""Replayed and reordered heartbeats change nothing, at any replica of the API."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from model.request_signature import thumbprint_of

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
UP, DOWN = ({"tunnel": each, "envoy": "up"} for each in ("up", "down"))


class Recorder:
    """A listener that keeps an exit's signed heartbeats, and sends them to any replica."""

    def __init__(self, proxy):
        self.proxy = proxy

    def sign(self, report):
        """Sign a report without sending it."""
        body = json.dumps(report).encode()
        return body, self.proxy.sign(body, self.proxy.path)

    def sign_whole(self, report, at):
        """Sign a report as an agent of 0.1.0 does: with the whole second."""
        body, headers = self.sign(report)
        claims = jwt.decode(headers["authorization"][7:], options={"verify_signature": False})
        named = {"x5t#S256": thumbprint_of(self.proxy.certificate)}
        claims |= {"iat": int(at.timestamp()), "exp": int(at.timestamp()) + 60}
        return body, {"authorization": f"Bearer {jwt.encode(claims, self.proxy.key_pem, 'ES256', headers=named)}"}

    async def send(self, api, recorded):
        body, headers = recorded
        return await api("POST", self.proxy.path, body=body, headers=headers, peer="203.0.113.66")


@pytest.fixture
def listener(exit_proxy):
    return Recorder(exit_proxy)


@pytest.fixture
def other(make_api, database):
    """A second replica of the API."""
    return make_api(database)


async def state_of(query):
    (row,) = await query("SELECT tunnel_up, heard_at, leaving FROM heartbeat")
    return row["tunnel_up"], row["heard_at"], row["leaving"]


async def test_replayed_heartbeat_is_refused(listener, demo, clock, query):
    good = listener.sign(UP)
    assert (await listener.send(demo, good)).status == 202
    clock.advance(seconds=10)
    assert (await listener.send(demo, listener.sign(DOWN))).status == 202
    await demo.context.heartbeat_sink.flush()
    before = await state_of(query)
    clock.advance(seconds=10)
    reply = await listener.send(demo, good)
    assert (reply.status, reply.json["code"]) == (401, "stale_signature")
    assert "not newer than 2026-01-01T12:00:10" in reply.json["detail"]
    await demo.context.heartbeat_sink.flush()
    assert await state_of(query) == before


async def test_replay_at_another_replica_changes_nothing(listener, demo, other, clock, query):
    good, stopping = listener.sign(UP), listener.sign(UP | {"stopping": True})
    for each in (good, stopping):
        assert (await listener.send(demo, each)).status == 202
    clock.advance(seconds=10)
    assert (await listener.send(demo, listener.sign(DOWN))).status == 202
    await demo.context.heartbeat_sink.flush()
    before = await state_of(query)
    clock.advance(seconds=10)
    for each in (good, stopping):
        await listener.send(other, each)
        await other.context.heartbeat_sink.flush()
        assert await state_of(query) == before
        # from then on it knows the newest time, too
        assert (await listener.send(other, each)).status == 401


async def test_reordered_heartbeats_leave_newest(listener, demo, other, clock, query):
    first, second = listener.sign(UP), listener.sign(DOWN)
    assert (await listener.send(demo, second)).status == 202
    assert (await listener.send(demo, first)).status == 401
    assert (await listener.send(other, first)).status == 202
    for each in (other, demo):
        await each.context.heartbeat_sink.flush()
    assert (await state_of(query))[0] is False


async def test_replays_execute_no_statement(listener, demo, statements):
    good = listener.sign(UP)
    assert (await listener.send(demo, good)).status == 202
    await demo.context.heartbeat_sink.flush()
    flush = len(statements) - 1  # the first heartbeat reads the certificate
    statements.clear()
    for _ in range(5):
        assert (await listener.send(demo, good)).status == 401
        assert (await listener.send(demo, listener.sign(UP))).status == 202
    assert not statements
    await demo.context.heartbeat_sink.flush()
    assert len(statements) < flush  # the keeper is not woken


async def test_replayed_result_of_order_changes_nothing(listener, demo, other, clock):
    order = await demo("POST", f"/api/v1/exits/{listener.proxy.id}/logs")
    failed, done = (
        listener.sign(UP | {"order_results": [{"id": order.json["id"], "outcome": {}} | more]})
        for more in ({"error": "it has one server only"}, {})
    )
    assert (await listener.send(demo, failed)).status == 202
    before = (await demo("GET", order.headers["location"])).json
    assert (before["state"], before["error"]) == ("failed", "it has one server only")
    clock.advance(seconds=10)
    assert (await listener.send(demo, failed)).status == 401
    for each in (failed, done):
        await listener.send(other, each)
    assert (await demo("GET", order.headers["location"])).json == before


@pytest.mark.parametrize(
    ("second", "status"),
    [(UP, 401), (DOWN, 202), ({"tunnel": "up", "envoy": "up", "stopping": True}, 202)],
    ids=["the same", "tunnel down", "stopping"],
)
async def test_worse_report_of_same_whole_second_is_newer(listener, demo, clock, query, second, status):
    recorded = listener.sign_whole(UP, clock())
    assert (await listener.send(demo, recorded)).status == 202
    assert (await listener.send(demo, listener.sign_whole(second, clock()))).status == status
    assert (await listener.send(demo, recorded)).status == 401
    assert (await listener.send(demo, listener.sign_whole(UP, clock.advance(seconds=1)))).status == 202


async def test_exit_whose_clock_was_ahead_may_go_on(listener, demo, other, clock, query):
    """The refusal states a time that is accepted, so that an agent goes on at once, however wrong its clock was."""
    proxy = listener.proxy
    proxy.ahead = timedelta(minutes=5)
    assert (await proxy.beat()).status == 202
    await demo.context.heartbeat_sink.flush()
    proxy.ahead = timedelta(0)
    for replica in (demo, other):
        proxy.signed_at = LONG_AGO
        await listener.send(replica, listener.sign(UP))
        await replica.context.heartbeat_sink.flush()
        reply = await listener.send(replica, listener.sign(DOWN))
        assert reply.status == 401
        proxy.signed_at = datetime.fromisoformat(reply.json["errors"][0]["value"])
        assert (await listener.send(replica, listener.sign(DOWN))).status == 202
        await replica.context.heartbeat_sink.flush()
        assert (await state_of(query))[0] is False


async def test_time_beyond_tolerance_shuts_no_exit_out(listener, demo, other, clock, query):
    """The control plane's clock was a day ahead, and so were those of the agents that adopted it."""
    clock.advance(days=1)
    assert (await listener.send(demo, listener.sign(UP))).status == 202
    await demo.context.heartbeat_sink.flush()
    clock.advance(days=-1)
    for replica in (other, demo):
        listener.proxy.signed_at = LONG_AGO
        assert (await listener.send(replica, listener.sign(DOWN))).status == 202
        await replica.context.heartbeat_sink.flush()
        assert await state_of(query) == (False, clock(), False)
