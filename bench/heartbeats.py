"""Heartbeats of 20,000 exits: 2,000 a second for 60 s, each with a proof of its own, and an orderly stop in the end.

Counts what PostgreSQL was asked meanwhile (pg_stat_database's transactions, and the statements of the API's own sessions) and
whether the last heartbeat of every exit was stored. As a baseline of the same run: the same rate of `/health`.
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

from bench.reads import ask, get
from bench.report import figure, heading, spread
from bench.testbed import DeclaredFleet, Testbed, open_bed, run
from model.tables import CertificateRow
from model.unit_of_work import write

_AIM_S = 0.100
_STATEMENTS_AIM = 0.02
_INTERVAL_S = 10
_BODY = json.dumps({"tunnel": "up", "envoy": "up", "leaving": False, "reason": "", "version": "0.1.0"}).encode()


async def measure(exits: int, seconds: float) -> None:
    rate = exits / _INTERVAL_S
    async with open_bed() as bed:
        fleet = await bed.declare(pools=exits // 100, exits=100, gateways=1)
        key = ec.generate_private_key(ec.SECP256R1())
        thumbprints = await certify(bed, fleet, key)
        await bed.database.close()  # its pool would count
        async with bed.serve() as replica:
            heading(f"{rate:,.0f} heartbeats/s of {exits:,} exits for {seconds:g} s")
            baseline = await ask(bed, replica, [get("/health", "")], rate, min(seconds, 10))
            first = signed(fleet, thumbprints, key, rate, exits / rate)
            await ask(bed, replica, first, rate, exits / rate)  # each exit's first is news, and its certificate unknown
            beats = signed(fleet, thumbprints, key, rate, seconds)
            before, cpu_before = await statements(bed), replica.process.cpu_s
            delays = await ask(bed, replica, beats, rate, seconds)
            asked, cpu_s = await statements(bed) - before, replica.process.cpu_s - cpu_before
            sent_until = datetime.now(UTC)
            await replica.stop()
            spread("heartbeat", delays, aim_s=_AIM_S, baseline_s=baseline)
            spread("baseline: /health", baseline)
            figure("transactions per heartbeat", asked / len(delays), at_most=_STATEMENTS_AIM)
            figure("processor time per heartbeat", cpu_s / len(delays) * 1e6, "us")
            since = sent_until - timedelta(seconds=_INTERVAL_S + 2)
            figure("exits whose last heartbeat was lost at the stop", exits - await stored(bed, since), at_most=0)


async def certify(bed: Testbed, fleet: DeclaredFleet, key: ec.EllipticCurvePrivateKey) -> list[str]:
    """A certificate for each exit, in name: thumbprints of their own, and one key."""
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
    async with write(bed.database) as unit:
        for start in range(0, len(rows), 1_000):
            await unit.session.execute(insert(CertificateRow), rows[start : start + 1_000])
    return thumbprints


def signed(
    fleet: DeclaredFleet, thumbprints: Sequence[str], key: ec.EllipticCurvePrivateKey, rate: float, seconds: float
) -> list[bytes]:
    """The heartbeats of all exits in turn, each signed for the time when it will be sent."""
    began = time.time()
    lead_s = rate * seconds * 150e-6 + 2  # signing takes its time
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


async def statements(bed: Testbed) -> int:
    """How many transactions the database has seen."""
    async with bed.database.session() as session:
        await session.execute(text("SELECT pg_stat_force_next_flush()"))
        found = await session.execute(
            text("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
        )
        return int(found.scalar_one())


async def stored(bed: Testbed, since: datetime) -> int:
    """How many exits were heard of since then."""
    async with bed.database.session() as session:
        found = await session.execute(text("SELECT count(*) FROM heartbeat WHERE heard_at >= :since"), {"since": since})
        return int(found.scalar_one())


def main(given: Sequence[str]) -> None:
    options = argparse.ArgumentParser(prog="bench heartbeats", description=__doc__)
    options.add_argument("--exits", type=int, default=20_000)
    options.add_argument("--seconds", type=float, default=60)
    chosen = options.parse_args(given)
    run(lambda: measure(chosen.exits, chosen.seconds))
