"""Strangers who hold 20,000 connections, open 1,000 new ones a second and send slow requests, beside heartbeats and streams.

The attack goes to the ports of API and xDS in turn, from 127.0.0.2 on, from as many addresses as it is told. Each heartbeat and
each stream needs a new connection from 127.0.0.1. The baseline of the same run is without strangers. Where this machine's
descriptors do not suffice, fewer connections are opened, and the heading says so.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from bench.bad_clients import DELTA, request
from bench.heartbeats import certify, signed
from bench.report import print_heading, print_times, print_value
from bench.stranger_clients import IDLE, stranger_clients
from bench.testbed import Replica, Testbed, open_testbed, run
from model.identity import XDS_SERVER_NAME
from xds.translate.names import CLUSTER

_TIMEOUT_S: Final = 5.0
"""The time after which an agent gives a heartbeat up."""
_SLOW: Final = (
    "POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n"
)
_PAUSE_S: Final = 0.2


async def measure(options: argparse.Namespace) -> None:
    async with open_testbed() as testbed:
        fleet = await testbed.declare(pools=1, exits=options.exits, gateways=options.exits)
        key = ec.generate_private_key(ec.SECP256R1())
        thumbprints = await certify(testbed, fleet, key)
        async with testbed.serve() as replica:

            def sign() -> Sequence[bytes]:
                return signed(fleet, thumbprints, key, options.exits, 1)

            pairs = testbed.certify(fleet)
            quiet, _ = await rounds(testbed, replica, sign, pairs, options.seconds / 2)
            async with attack(replica, options) as opened:
                loaded, failed = await rounds(testbed, replica, sign, pairs, options.seconds)
            print_value("connections that strangers opened", await opened, "")
            for kind, times in loaded.items():
                print_value(f"{kind}: failed", failed[kind], at_most=0)
                if times:
                    print_times(kind, times, baseline_s=quiet[kind] or None)
                if quiet[kind]:
                    print_times(f"baseline: {kind} without strangers", quiet[kind])
            print_value("control plane: resident", replica.process.resident_mb, "MB")


async def rounds(
    testbed: Testbed, replica: Replica, sign: Callable[[], Sequence[bytes]], pairs: Sequence[Path], seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Send a heartbeat and open a stream in turn. Return the times in seconds of those that succeeded, and how many failed."""
    times: dict[str, list[float]] = {"heartbeat": [], "stream": []}
    failed = dict.fromkeys(times, 0)
    authority = await asyncio.to_thread(testbed.authority_file.read_bytes)
    beats: Sequence[bytes] = ()
    number, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        if number % len(pairs) == 0:
            beats = sign()  # a signature is valid for a minute
        pem = await asyncio.to_thread(pairs[number % len(pairs)].read_bytes)
        for kind, work in (
            ("heartbeat", beat(replica.api_port, beats[number % len(beats)])),
            ("stream", open_stream(replica.xds_port, authority, pem)),
        ):
            began = time.monotonic()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await work
            except (OSError, grpc.aio.AioRpcError, asyncio.IncompleteReadError):
                failed[kind] += 1
            else:
                times[kind].append(time.monotonic() - began)
        number += 1
        await asyncio.sleep(_PAUSE_S)
    return times, failed


async def beat(port: int, sent: bytes) -> None:
    """Send a heartbeat over a new connection. Raises OSError and IncompleteReadError when it is not received."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        if not (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 202"):
            raise ConnectionError("it was refused")
    finally:
        writer.transport.abort()


async def open_stream(port: int, authority: bytes, pem: bytes) -> None:
    """Open a stream over a new connection, and read its first response. Raises AioRpcError."""
    credentials = grpc.ssl_channel_credentials(authority, private_key=pem, certificate_chain=pem)
    options = [("grpc.ssl_target_name_override", XDS_SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        call = channel.stream_stream(DELTA)(wait_for_ready=True)
        await call.write(request(CLUSTER))
        if await call.read() is grpc.aio.EOF:
            raise ConnectionError("the stream ended")


@asynccontextmanager
async def attack(replica: Replica, options: argparse.Namespace) -> AsyncIterator[asyncio.Future[float]]:
    """Run strangers in a process of their own; the future has the number of their connections after the block."""
    opened: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    api, xds = (["127.0.0.1", port] for port in (replica.api_port, replica.xds_port))
    openings = [[api, IDLE], [xds, IDLE], [api, _SLOW], [xds, IDLE]]
    process = await asyncio.create_subprocess_exec(
        *stranger_clients(openings, options.idle, options.rate, options.addresses),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()  # all idle ones are open
    try:
        yield opened
    finally:
        output, _ = await process.communicate(b"")
        opened.set_result(float(output))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench strangers", description=__doc__)
    parser.add_argument("--idle", type=int, default=20_000)
    parser.add_argument("--rate", type=int, default=1_000, help="new connections a second")
    parser.add_argument("--addresses", type=int, default=50, help="at most 250")
    parser.add_argument("--exits", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args(argv)
    asked, possible = options.idle, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200
    options.idle = min(asked, possible)
    print_heading(
        f"{options.idle:,} idle connections of {options.addresses} addresses, {options.rate:,} new ones a second, for {options.seconds:g} s"
        + (f"; {asked:,} were asked, but a process may open {possible + 200:,} files" if options.idle < asked else "")
    )
    run(lambda: measure(options))
