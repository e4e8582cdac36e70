"""How far it is through the tunnel: the time that a TCP connection takes to be made."""

from __future__ import annotations

import asyncio
import math
import socket
import statistics
from contextlib import closing, suppress
from ipaddress import ip_address
from typing import Final

from agent.egress.http_sources import EgressPath
from model.endpoint import Endpoint

SAMPLES: Final = 5
_EACH_S: Final = 1.0
_ALL_S: Final = 3.0
_STEADY: Final = 0.25
_STEADY_MS: Final = 2.0


async def measure_rtt_ms(target: Endpoint, way: EgressPath) -> float | None:
    """The median of some connections to a target, in milliseconds; None if it answers none of them in time."""
    samples: list[float] = []
    try:
        async with asyncio.timeout(_ALL_S):
            place = await _resolve(target, way)
            while len(samples) < SAMPLES:
                samples.append(await _connect_ms(place, way))
    except OSError:  # a TimeoutError is one
        pass
    return statistics.median(samples) if samples else None


def steady(before_ms: float | None, now_ms: float | None) -> float | None:
    """What is told of a measurement: two digits, and the one before as long as it is near: noise is no news."""
    if now_ms is None:
        return before_ms
    if before_ms is not None and abs(now_ms - before_ms) <= max(_STEADY * before_ms, _STEADY_MS):
        return before_ms
    return two_digits(now_ms)


def two_digits(value: float) -> float:
    """`value` to two significant digits; 0.1 is the least."""
    value = max(value, 0.1)
    return round(value, 1 - math.floor(math.log10(value)))


async def _resolve(target: Endpoint, way: EgressPath) -> tuple[str, int]:
    # where there is no network but loopback, a resolver knows not even an address
    with suppress(ValueError):
        return str(ip_address(target.host)), target.port
    found = await way.names().resolve(target.host, target.port, socket.AddressFamily(way.family))
    return found[0]["host"], target.port


async def _connect_ms(place: tuple[str, int], way: EgressPath) -> float:
    loop = asyncio.get_running_loop()
    with closing(way.new_socket()) as dialled:
        async with asyncio.timeout(_EACH_S):
            begun_s = loop.time()
            await loop.sock_connect(dialled, place)
            return (loop.time() - begun_s) * 1000
