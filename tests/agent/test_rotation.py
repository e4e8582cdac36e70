"""The order `rotate`: waits for open requests, and for the verification of the new server."""

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


class RotatedEnvoy:
    """A stand-in for a supervisor and for its Envoy's admin interface."""

    def __init__(self, open_requests: int = 0) -> None:
        self.admin = self
        self.open = open_requests
        self.queried = asyncio.Event()

    async def count_open_requests(self) -> int:
        self.queried.set()
        return self.open


@pytest.fixture
def board() -> StatusBoard:
    board = StatusBoard()
    board.update(tunnel=HealthState.UP, observation=SEEN)
    return board


async def test_rotation_waits_for_open_requests_and_takes_no_new_ones(board):
    envoy, changed = RotatedEnvoy(2), asyncio.Event()

    async def change_server():
        changed.set()
        board.update(observation=Observation(address="198.51.100.8", country="us"))
        return "us-9"

    task = asyncio.create_task(Rotation(board, lambda: envoy, change_server)({}))
    await asyncio.wait_for(envoy.queried.wait(), 60)
    assert not board.report.is_serving
    assert not changed.is_set()
    envoy.open = 0
    assert await asyncio.wait_for(task, 60) == {"server": "us-9", "address": "198.51.100.8"}
    assert board.report.is_serving


async def test_rotation_waits_for_open_requests_up_to_limit(board):
    async def change_server():
        return "us-9"

    outcome = await Rotation(board, lambda: RotatedEnvoy(1), change_server, drain_s=0.01)({})
    assert outcome["server"] == "us-9"


async def test_rotation_waits_until_new_server_is_verified(board):
    async def change_server():
        board.update(observation=Observation(error="not yet"))
        return "us-9"

    task = asyncio.create_task(Rotation(board, lambda: None, change_server)({}))
    changed = board.changed
    while board.report.observation is not None and not board.report.observation.error:
        await asyncio.wait_for(changed.wait(), 60)
        changed = board.changed
    assert not task.done()
    board.update(observation=SEEN)
    assert (await asyncio.wait_for(task, 60))["address"] == SEEN.address


async def test_unverified_server_fails_order_and_ends_rest(board):
    async def change_server():
        board.update(tunnel=HealthState.DOWN, reason="no handshake")
        return "us-9"

    with pytest.raises(OrderFailed, match="no handshake"):
        await Rotation(board, lambda: None, change_server, verified_within_s=0.01)({})
    assert board.report.paused == ""


async def test_unmanaged_tunnel_fails_order_with_reason(board):
    async def change_server():
        raise ExitplaneError("the tunnel is not the agent's to change", hint="ask whoever brings it up")

    with pytest.raises(OrderFailed, match="not the agent's"):
        await Rotation(board, lambda: None, change_server)({})
    assert board.report.is_serving


class Tunnel:
    """A tunnel that can try another server beside the current one."""

    def __init__(self, failure: TunnelFailed | None = None) -> None:
        self.failure = failure
        self.country = None

    async def rotate_seamlessly(self, country, look, drain):
        self.country, self.look = country, look
        if self.failure is not None:
            raise self.failure
        await drain()
        return RotationResult("us-9", "198.51.100.8")


async def test_tunnel_rotation_keeps_exit_serving(board):
    envoy, tunnel = RotatedEnvoy(1), Tunnel()
    task = asyncio.create_task(TunnelRotation(tunnel, None, RequestDrain(lambda: envoy))({"country": "us"}))
    await asyncio.wait_for(envoy.queried.wait(), 60)
    assert board.report.is_serving
    assert not task.done()
    envoy.open = 0
    assert await asyncio.wait_for(task, 60) == {"server": "us-9", "address": "198.51.100.8"}
    assert tunnel.country == "us"


async def test_failed_tunnel_rotation_fails_order_with_reason():
    tunnel = Tunnel(TunnelFailed("its address is in fr", hint="the old server stays"))
    with pytest.raises(OrderFailed, match="in fr; the old server stays"):
        await TunnelRotation(tunnel, None, RequestDrain(lambda: None))({"country": 7})
    assert tunnel.country is None
