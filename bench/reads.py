"""Reads of a large control plane: 200 per second with 10,000 exits and 10,000 users, and the whole list of exits at once.

The load generator runs on the same host. The baseline of the same run is the same rate of `/health`, which reads nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import insert

from bench.control_plane import create_admin
from bench.http_load import pack
from bench.report import print_heading, print_times, print_value, quantile
from bench.testbed import DeclaredFleet, Replica, Testbed, open_testbed, run
from model.tables import UserRow
from model.unit_of_work import write
from model.world import Kind

_AIM_S = 0.020
_LIST_AIM_S = 1.0


async def measure(rate: float, seconds: float) -> None:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=100, exits=100, gateways=10)
        await declare_users(testbed, fleet, 10_000)
        key = await create_admin(testbed.database)
        async with testbed.serve() as replica:
            print_heading(f"{rate:g} reads/s for {seconds:g} s, 10,000 exits and 10,000 users")
            baseline = await send(testbed, replica, [get("/health", key)], rate, seconds)
            delays = await send(testbed, replica, [get(f"/api/v1{path}", key) for path in paths(fleet)], rate, seconds)
            print_times("read", delays, baseline_s=baseline)
            print_value("read, 95th percentile", quantile(delays, 95) * 1000, "ms", below=_AIM_S * 1000)
            print_times("baseline: /health", baseline)
            print_heading("all 10,000 exits in one list")
            lists = [await asyncio.to_thread(list_exits, replica, key) for _ in range(10)]
            print_times("the whole list", [each for each, _ in lists], aim_s=_LIST_AIM_S)
            print_value("its size", lists[0][1] / 2**20, "MiB")


def paths(fleet: DeclaredFleet) -> list[str]:
    """Build a typical mix of paths: single objects, pages, and filtered pages."""
    singles = [f"/exits/{exit_id}" for exit_id in fleet.exits[:200:2]]
    names = [f"/users?name=user{number}&limit=10" for number in range(0, 10_000, 200)]
    pages = [
        "/exits?limit=50",
        f"/exits?pool={fleet.pools[7]}&limit=50",
        "/exits?state=healthy&sort=-state_since&limit=50",
        "/users?limit=50",
        "/pools?limit=50",
    ]
    return [path for group in zip(singles, names * 2, pages * 20, strict=True) for path in group]


def get(path: str, key: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def send(testbed: Testbed, replica: Replica, requests: list[bytes], rate: float, seconds: float) -> list[float]:
    """Send requests at a rate, and return their delays. Raises RuntimeError if one failed."""
    file = testbed.folder / "requests"
    pack(requests, file)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.http_load", str(replica.api_port), str(rate), str(seconds), str(file)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    result: dict[str, Any] = json.loads(output)
    if set(result["statuses"]) - {"200", "202"}:
        raise RuntimeError(f"not all requests succeeded: {result['statuses']}")
    delays: list[float] = result["delays_s"]
    return delays


def list_exits(replica: Replica, key: str) -> tuple[float, int]:
    """Read the list, and return the seconds until its last byte, and its size in bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.api_port, timeout=30)
    began = time.monotonic()
    connection.request("GET", "/api/v1/exits?limit=10000", headers={"Authorization": f"Bearer {key}"})
    body = connection.getresponse().read()
    took = time.monotonic() - began
    assert len(json.loads(body)["items"]) == 10_000
    connection.close()
    return took, len(body)


async def declare_users(testbed: Testbed, fleet: DeclaredFleet, count: int) -> None:
    now = datetime.now(UTC)
    ids = [uuid4() for _ in range(count)]
    rows = [
        {"id": user_id, "fleet_id": fleet.id, "name": f"user{number}", "group": f"g{number % 20}", "created_at": now}
        for number, user_id in enumerate(ids)
    ]
    async with write(testbed.database) as unit:
        await unit.session.execute(insert(UserRow), rows)
        for user_id in ids:
            unit.touch(Kind.USER, user_id)


def main(argv: Sequence[str]) -> None:
    options = argparse.ArgumentParser(prog="python -m bench reads", description=__doc__)
    options.add_argument("--rate", type=float, default=200)
    options.add_argument("--seconds", type=float, default=30)
    chosen = options.parse_args(argv)
    run(lambda: measure(chosen.rate, chosen.seconds))
