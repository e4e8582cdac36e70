"""Round-trip times: measured by connecting, and reported with hysteresis."""

from __future__ import annotations

import asyncio

import pytest

from agent.egress.http_sources import EgressPath
from agent.egress.latency import SAMPLES, apply_hysteresis, measure_rtt_ms, round_to_two_digits
from model.endpoint import Endpoint


@pytest.fixture
async def target():
    """A server that counts its connections."""
    made = []
    server = await asyncio.start_server(lambda _, writer: (made.append(1), writer.close()), "127.0.0.1", 0)
    yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), made
    server.close()


async def test_rtt_is_time_of_connections(target, until):
    endpoint, made = target
    assert 0 < await measure_rtt_ms(endpoint, EgressPath()) < 1000
    await until(lambda: len(made) == SAMPLES)


async def test_rtt_to_address_needs_no_resolver(target, monkeypatch):
    monkeypatch.setattr(EgressPath, "create_resolver", lambda _: pytest.fail("a resolver was used"))
    assert await measure_rtt_ms(target[0], EgressPath()) is not None


async def test_unreachable_target_has_no_rtt(target):
    assert await measure_rtt_ms(Endpoint("127.0.0.1", 1), EgressPath()) is None
    assert await measure_rtt_ms(Endpoint("nowhere.invalid", 1), EgressPath()) is None
    assert await measure_rtt_ms(target[0], EgressPath("nowhere0")) is None


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.0, 0.1), (0.04, 0.1), (0.123, 0.12), (9.96, 10.0), (12.7, 13.0), (128.4, 130.0), (1234.0, 1200.0)],
)
def test_value_is_rounded_to_two_digits(value, rounded):
    assert round_to_two_digits(value) == rounded


@pytest.mark.parametrize(
    ("before", "now", "reported"),
    [
        (None, 12.7, 13.0),
        (None, None, None),
        (13.0, None, 13.0),
        (13.0, 16.2, 13.0),
        (13.0, 9.8, 13.0),
        (13.0, 16.3, 16.0),
        (13.0, 9.7, 9.7),
        (0.3, 2.2, 0.3),
        (0.3, 2.4, 2.4),
        (200.0, 249.0, 200.0),
        (200.0, 251.0, 250.0),
    ],
)
def test_small_change_keeps_previous_rtt(before, now, reported):
    assert apply_hysteresis(before, now) == reported
