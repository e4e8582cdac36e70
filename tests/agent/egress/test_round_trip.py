"""Round-trip times: measured by connecting, and told so that noise is no news."""

from __future__ import annotations

import asyncio

import pytest

from agent.egress.http_sources import EgressPath
from agent.egress.latency import SAMPLES, measure_rtt_ms, steady, two_digits
from model.endpoint import Endpoint


@pytest.fixture
async def target():
    """Counts the connections made to it."""
    made = []
    server = await asyncio.start_server(lambda _, writer: (made.append(1), writer.close()), "127.0.0.1", 0)
    yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), made
    server.close()


async def test_it_is_the_time_that_connections_take(target, until):
    endpoint, made = target
    assert 0 < await measure_rtt_ms(endpoint, EgressPath()) < 1000
    await until(lambda: len(made) == SAMPLES)


async def test_an_address_needs_no_resolver(target, monkeypatch):
    monkeypatch.setattr(EgressPath, "names", lambda _: pytest.fail("a resolver was asked"))
    assert await measure_rtt_ms(target[0], EgressPath()) is not None


async def test_a_target_that_is_not_there_has_none(target):
    assert await measure_rtt_ms(Endpoint("127.0.0.1", 1), EgressPath()) is None
    assert await measure_rtt_ms(Endpoint("nowhere.invalid", 1), EgressPath()) is None
    assert await measure_rtt_ms(target[0], EgressPath("nowhere0")) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, 0.1), (0.04, 0.1), (0.123, 0.12), (9.96, 10.0), (12.7, 13.0), (128.4, 130.0), (1234.0, 1200.0)],
)
def test_two_digits_are_told(value, told):
    assert two_digits(value) == told


@pytest.mark.parametrize(
    ("before", "now", "told"),
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
def test_what_is_near_to_what_was_told_is_no_news(before, now, told):
    assert steady(before, now) == told
