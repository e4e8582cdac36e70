"""Round-trip time through the tunnel, measured as the time that a TCP connection takes to open."""

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
_SAMPLE_TIMEOUT_S: Final = 1.0
_TOTAL_TIMEOUT_S: Final = 3.0
_CHANGE_RATIO: Final = 0.25
_CHANGE_MIN_MS: Final = 2.0


async def measure_rtt_ms(target: Endpoint, path: EgressPath) -> float | None:
    """Return the median of up to 5 connections to a target, in milliseconds; None if none opens in time."""
    samples: list[float] = []
    try:
        async with asyncio.timeout(_TOTAL_TIMEOUT_S):
            address = await _resolve(target, path)
            while len(samples) < SAMPLES:
                samples.append(await _connect_ms(address, path))
    except OSError:  # TimeoutError is a subclass
        pass
    return statistics.median(samples) if samples else None


def apply_hysteresis(before_ms: float | None, now_ms: float | None) -> float | None:
    """Round to two digits, but keep the previous value while the change is below 25 % or 2 ms, so that noise makes no heartbeat."""
    if now_ms is None:
        return before_ms
    if before_ms is not None and abs(now_ms - before_ms) <= max(_CHANGE_RATIO * before_ms, _CHANGE_MIN_MS):
        return before_ms
    return round_to_two_digits(now_ms)


def round_to_two_digits(value: float) -> float:
    """Round to two significant digits; the minimum is 0.1."""
    value = max(value, 0.1)
    return round(value, 1 - math.floor(math.log10(value)))


async def _resolve(target: Endpoint, path: EgressPath) -> tuple[str, int]:
    # aiohttp's resolver fails even for an address where no network but loopback is up
    with suppress(ValueError):
        return str(ip_address(target.host)), target.port
    found = await path.create_resolver().resolve(target.host, target.port, socket.AddressFamily(path.family))
    return found[0]["host"], target.port


async def _connect_ms(address: tuple[str, int], path: EgressPath) -> float:
    loop = asyncio.get_running_loop()
    with closing(path.open_socket()) as dialled:
        async with asyncio.timeout(_SAMPLE_TIMEOUT_S):
            begun_s = loop.time()
            await loop.sock_connect(dialled, address)
            return (loop.time() - begun_s) * 1000
