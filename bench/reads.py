"""Reads of a large control plane: 200 a second with 10,000 exits and 10,000 users stored, and the whole list of exits at once.

The load generator runs beside it. As a baseline of the same run: the same rate of `/health`, which reads nothing.
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

from bench.control_plane import make_admin
from bench.http_load import pack
from bench.report import figure, heading, quantile, spread
from bench.testbed import DeclaredFleet, Replica, Testbed, open_bed, run
from model.tables import UserRow
from model.unit_of_work import write
from model.world import Kind

_AIM_S = 0.020
_LIST_AIM_S = 1.0


async def measure(rate: float, seconds: float) -> None:
    async with open_bed() as bed:
        fleet = await bed.declare(pools=100, exits=100, gateways=10)
        await declare_users(bed, fleet, 10_000)
        key = await make_admin(bed.database)
        async with bed.serve() as replica:
            heading(f"{rate:g} reads/s for {seconds:g} s, 10,000 exits and 10,000 users")
            baseline = await ask(bed, replica, [get("/health", key)], rate, seconds)
            delays = await ask(bed, replica, [get(f"/api/v1{path}", key) for path in paths(fleet)], rate, seconds)
            spread("read", delays, baseline_s=baseline)
            figure("read, 95th percentile", quantile(delays, 95) * 1000, "ms", below=_AIM_S * 1000)
            spread("baseline: /health", baseline)
            heading("all 10,000 exits in one list")
            lists = [await asyncio.to_thread(list_exits, replica, key) for _ in range(10)]
            spread("the whole list", [each for each, _ in lists], aim_s=_LIST_AIM_S)
            figure("its size", lists[0][1] / 2**20, "MiB")


def paths(fleet: DeclaredFleet) -> list[str]:
    """Single things, pages and filtered pages, as people and programs ask for them."""
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


async def ask(bed: Testbed, replica: Replica, requests: list[bytes], rate: float, seconds: float) -> list[float]:
    """The delays of requests, all of which were answered."""
    file = bed.folder / "requests"
    pack(requests, file)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.http_load", str(replica.api_port), str(rate), str(seconds), str(file)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    said: dict[str, Any] = json.loads(output)
    if set(said["statuses"]) - {"200", "202"}:
        raise RuntimeError(f"not all was answered: {said['statuses']}")
    delays: list[float] = said["delays_s"]
    return delays


def list_exits(replica: Replica, key: str) -> tuple[float, int]:
    """How long the list took to its last byte, and its bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.api_port, timeout=30)
    began = time.monotonic()
    connection.request("GET", "/api/v1/exits?limit=10000", headers={"Authorization": f"Bearer {key}"})
    body = connection.getresponse().read()
    took = time.monotonic() - began
    assert len(json.loads(body)["items"]) == 10_000
    connection.close()
    return took, len(body)


async def declare_users(bed: Testbed, fleet: DeclaredFleet, count: int) -> None:
    now = datetime.now(UTC)
    rows = [
        {"id": uuid4(), "fleet_id": fleet.id, "name": f"user{number}", "group": f"g{number % 20}", "created_at": now}
        for number in range(count)
    ]
    async with write(bed.database) as unit:
        await unit.session.execute(insert(UserRow), rows)
        for row in rows:
            unit.touch(Kind.USER, row["id"])


def main(given: Sequence[str]) -> None:
    options = argparse.ArgumentParser(prog="bench reads", description=__doc__)
    options.add_argument("--rate", type=float, default=200)
    options.add_argument("--seconds", type=float, default=30)
    chosen = options.parse_args(given)
    run(lambda: measure(chosen.rate, chosen.seconds))
