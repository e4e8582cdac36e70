"""An exit takes another server when nobody uses it, and serves again once that is verified."""

from __future__ import annotations

import asyncio

import pytest

from agent.config.status import HealthState, Observation, StatusBoard
from agent.control.orders import OrderFailed
from agent.rotation import RequestDrain, Rotation, TunnelRotation
from agent.vpn.errors import TunnelFailed
from agent.vpn.managed_tunnel import RotationResult
from model.errors import ExitplaneError

SEEN = Observation(address="198.51.100.7", country="us")


class Envoy:
    """A supervisor, and the admin interface of its Envoy."""

    def __init__(self, open_requests: int = 0) -> None:
        self.admin = self
        self.open = open_requests
        self.asked = asyncio.Event()

    async def open_requests(self) -> int:
        self.asked.set()
        return self.open


@pytest.fixture
def board() -> StatusBoard:
    board = StatusBoard()
    board.update(tunnel=HealthState.UP, observation=SEEN)
    return board


async def test_it_takes_another_server_when_the_open_requests_are_done_and_takes_no_new_ones_meanwhile(board):
    envoy, took = Envoy(2), asyncio.Event()

    async def take():
        took.set()
        board.update(observation=Observation(address="198.51.100.8", country="us"))
        return "us-9"

    rotating = asyncio.create_task(Rotation(board, lambda: envoy, take)({}))
    await asyncio.wait_for(envoy.asked.wait(), 60)
    assert not board.report.is_serving
    assert not took.is_set()
    envoy.open = 0
    assert await asyncio.wait_for(rotating, 60) == {"server": "us-9", "address": "198.51.100.8"}
    assert board.report.is_serving


async def test_requests_that_do_not_end_hold_it_up_for_a_while_only(board):
    async def take():
        return "us-9"

    done = await Rotation(board, lambda: Envoy(1), take, drain_s=0.01)({})
    assert done["server"] == "us-9"


async def test_it_waits_until_the_new_one_is_verified(board):
    async def take():
        board.update(observation=Observation(trouble="not yet"))
        return "us-9"

    rotating = asyncio.create_task(Rotation(board, lambda: None, take)({}))
    changed = board.changed
    while board.report.observation is not None and not board.report.observation.trouble:
        await asyncio.wait_for(changed.wait(), 60)
        changed = board.changed
    assert not rotating.done()
    board.update(observation=SEEN)
    assert (await asyncio.wait_for(rotating, 60))["address"] == SEEN.address


async def test_what_is_never_verified_is_a_failure_and_the_exit_does_not_rest_for_ever(board):
    async def take():
        board.update(tunnel=HealthState.DOWN, reason="no handshake")
        return "us-9"

    with pytest.raises(OrderFailed, match="no handshake"):
        await Rotation(board, lambda: None, take, verified_within_s=0.01)({})
    assert board.report.paused == ""


async def test_a_tunnel_that_cannot_be_changed_says_why(board):
    async def take():
        raise ExitplaneError("the tunnel is not the agent's to change", hint="ask whoever brings it up")

    with pytest.raises(OrderFailed, match="not the agent's"):
        await Rotation(board, lambda: None, take)({})
    assert board.report.is_serving


class Tunnel:
    """One with room for another server beside the present one."""

    def __init__(self, failure: TunnelFailed | None = None) -> None:
        self.failure = failure
        self.country = None

    async def rotate_seamlessly(self, country, look, drain):
        self.country, self.look = country, look
        if self.failure is not None:
            raise self.failure
        await drain()
        return RotationResult("us-9", "198.51.100.8")


async def test_with_room_for_both_the_exit_does_not_rest_while_it_takes_another_server(board):
    envoy, tunnel = Envoy(1), Tunnel()
    ordered = asyncio.create_task(TunnelRotation(tunnel, None, RequestDrain(lambda: envoy))({"country": "us"}))
    await asyncio.wait_for(envoy.asked.wait(), 60)
    assert board.report.is_serving
    assert not ordered.done()
    envoy.open = 0
    assert await asyncio.wait_for(ordered, 60) == {"server": "us-9", "address": "198.51.100.8"}
    assert tunnel.country == "us"


async def test_why_another_server_was_not_taken_is_what_the_order_says():
    tunnel = Tunnel(TunnelFailed("its address is in fr", hint="the old server stays"))
    with pytest.raises(OrderFailed, match="in fr; the old server stays"):
        await TunnelRotation(tunnel, None, RequestDrain(lambda: None))({"country": 7})
    assert tunnel.country is None
