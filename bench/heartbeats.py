"""Heartbeats of 20,000 exits: 2,000 per second for 60 s, each with its own signature, then an orderly stop.

Counts PostgreSQL's transactions meanwhile (pg_stat_database), and the exits whose last heartbeat was stored. The baseline of
the same run is the same rate of `/health`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert, text

from bench.reads import get, send
from bench.report import print_heading, print_times, print_value
from bench.testbed import DeclaredFleet, Testbed, open_testbed, run
from model.tables import CertificateRow
from model.unit_of_work import write

_AIM_S = 0.100
_STATEMENTS_AIM = 0.02
_INTERVAL_S = 10
_BODY = json.dumps({"tunnel": "up", "envoy": "up", "stopping": False, "reason": "", "version": "0.1.0"}).encode()


async def measure(exits: int, seconds: float) -> None:
    rate = exits / _INTERVAL_S
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=exits // 100, exits=100, gateways=1)
        key = ec.generate_private_key(ec.SECP256R1())
        thumbprints = await certify(testbed, fleet, key)
        await testbed.database.close()  # the transactions of its pool would count
        async with testbed.serve() as replica:
            print_heading(f"{rate:,.0f} heartbeats/s of {exits:,} exits for {seconds:g} s")
            baseline = await send(testbed, replica, [get("/health", "")], rate, min(seconds, 10))
            first = signed(fleet, thumbprints, key, rate, exits / rate)
            await send(
                testbed, replica, first, rate, exits / rate
            )  # the first heartbeat of an exit is news, and its certificate not cached
            beats = signed(fleet, thumbprints, key, rate, seconds)
            before, cpu_before = await statements(testbed), replica.process.cpu_s
            delays = await send(testbed, replica, beats, rate, seconds)
            transactions, cpu_s = await statements(testbed) - before, replica.process.cpu_s - cpu_before
            sent_until = datetime.now(UTC)
            await replica.stop()
            print_times("heartbeat", delays, aim_s=_AIM_S, baseline_s=baseline)
            print_times("baseline: /health", baseline)
            print_value("transactions per heartbeat", transactions / len(delays), at_most=_STATEMENTS_AIM)
            print_value("processor time per heartbeat", cpu_s / len(delays) * 1e6, "us")
            since = sent_until - timedelta(seconds=_INTERVAL_S + 2)
            print_value(
                "exits whose last heartbeat was lost at the stop", exits - await stored(testbed, since), at_most=0
            )


async def certify(testbed: Testbed, fleet: DeclaredFleet, key: ec.EllipticCurvePrivateKey) -> list[str]:
    """Store a certificate row for each exit, with its own thumbprint and a shared key; return the thumbprints."""
    now = datetime.now(UTC)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    thumbprints = [
        base64.urlsafe_b64encode(hashlib.sha256(exit_id.bytes).digest()).rstrip(b"=").decode()
        for exit_id in fleet.exits
    ]
    rows: list[dict[str, Any]] = [
        {
            "thumbprint": thumbprint,
            "proxy_id": exit_id,
            "public_key": public.decode(),
            "issued_at": now,
            "expires_at": now + timedelta(days=1),
        }
        for thumbprint, exit_id in zip(thumbprints, fleet.exits, strict=True)
    ]
    async with write(testbed.database) as unit:
        for start in range(0, len(rows), 1_000):
            await unit.session.execute(insert(CertificateRow), rows[start : start + 1_000])
    return thumbprints


def signed(
    fleet: DeclaredFleet, thumbprints: Sequence[str], key: ec.EllipticCurvePrivateKey, rate: float, seconds: float
) -> list[bytes]:
    """Build the heartbeats of all exits in turn, each signed for the time at which it will be sent."""
    began = time.time()
    lead_s = rate * seconds * 150e-6 + 2  # signing takes 150 us for each
    digest = hashlib.sha256(_BODY).hexdigest()
    requests = []
    for number in range(int(rate * seconds)):
        which = number % len(fleet.exits)
        path = f"/api/v1/exits/{fleet.exits[which]}/heartbeat"
        at = began + lead_s + number / rate
        claims = {"aud": path, "iat": int(at), "exp": int(at) + 60, "sha256": digest}
        token = jwt.encode(claims, key, "ES256", headers={"x5t#S256": thumbprints[which]})
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n"
        )
        requests.append(head.encode() + _BODY)
    return requests


async def statements(testbed: Testbed) -> int:
    """Read the number of transactions of the database."""
    async with testbed.database.session() as session:
        await session.execute(text("SELECT pg_stat_force_next_flush()"))
        found = await session.execute(
            text("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
        )
        return int(found.scalar_one())


async def stored(testbed: Testbed, since: datetime) -> int:
    """Count the exits with a stored heartbeat since then."""
    async with testbed.database.session() as session:
        found = await session.execute(text("SELECT count(*) FROM heartbeat WHERE heard_at >= :since"), {"since": since})
        return int(found.scalar_one())


def main(argv: Sequence[str]) -> None:
    options = argparse.ArgumentParser(prog="python -m bench heartbeats", description=__doc__)
    options.add_argument("--exits", type=int, default=20_000)
    options.add_argument("--seconds", type=float, default=60)
    chosen = options.parse_args(argv)
    run(lambda: measure(chosen.exits, chosen.seconds))
