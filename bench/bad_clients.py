"""xDS clients that misbehave, one or more of each kind: `python -m bench.bad_clients PORT SERVER-AUTHORITY CERTIFICATE…`.

They use gRPC's own library, each at a rate that a broken client may have. They run until stdin ends, then print as JSON how
often each kind misbehaved.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import grpc

from model.identity import XDS_SERVER_NAME
from xds.translate.names import CLUSTER, ENDPOINT, LISTENER
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status

DELTA: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
EVERY_S: Final = 0.05
RETRY_S: Final = 1.0
"""A refused client reconnects after about a second, as Envoy does."""
done: Counter[str] = Counter()
ending: Final = asyncio.Event()


def request(type_url: str, *names: str, **fields: Any) -> bytes:
    return DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, **fields).SerializeToString()


async def never_reads(call: Any) -> None:
    """Request everything repeatedly, and read nothing."""
    while True:
        await call.write(request(CLUSTER, "*"))
        await call.write(request(ENDPOINT, "*"))
        done["never reads"] += 1
        await asyncio.sleep(RETRY_S)


async def never_answers(call: Any) -> None:
    """Read responses, and answer none."""
    await call.write(request(CLUSTER))
    while await call.read() is not grpc.aio.EOF:
        done["never answers"] += 1


async def rejects_for_ever(call: Any) -> None:
    """Reject each response, and request the resources again."""
    error = Status(code=3, message=b"no, and no again")
    await call.write(request(CLUSTER))
    while (raw := await call.read()) is not grpc.aio.EOF:
        response = DeltaDiscoveryResponse.FromString(raw)
        done["rejects for ever"] += 1
        await asyncio.sleep(EVERY_S)
        await call.write(request(CLUSTER, "*", response_nonce=response.nonce, error_detail=error))


async def foreign_nonces(call: Any) -> None:
    """Acknowledge nonces that were never sent."""
    await call.write(request(LISTENER))
    while True:
        await call.write(request(LISTENER, response_nonce="of somebody else"))
        done["foreign nonces"] += 1
        await asyncio.sleep(EVERY_S)


async def unknown_type(call: Any) -> None:
    """Request an unknown type."""
    while True:
        await call.write(request("type.googleapis.com/nobody.knows.This", "a"))
        done["unknown type"] += 1
        await asyncio.sleep(EVERY_S)


async def a_million_names(call: Any) -> None:
    """Subscribe to a million names at once."""
    await call.write(_million())
    done["a million names"] += 1
    await call.read()


@cache
def _million() -> bytes:
    """Build the request once, so that its cost is not repeated."""
    return request(ENDPOINT, *(f"n{number}" for number in range(1_000_000)))


async def a_large_node(call: Any) -> None:
    """Send a node of 2 MiB."""
    await call.write(request(CLUSTER, node=bytes(2 * 1024 * 1024)))
    done["a large node"] += 1
    await call.read()


async def garbage(call: Any) -> None:
    """Send bytes that are not a request."""
    await call.write(b"\xff" * 1000)
    done["garbage"] += 1
    await call.read()


KINDS: Final[tuple[Callable[[Any], Awaitable[None]], ...]] = (
    never_reads,
    never_answers,
    rejects_for_ever,
    foreign_nonces,
    unknown_type,
    a_million_names,
    a_large_node,
    garbage,
)


async def misbehave(port: int, authority: bytes, pair: Path, kind: Callable[[Any], Awaitable[None]]) -> None:
    pem = await asyncio.to_thread(pair.read_bytes)
    credentials = grpc.ssl_channel_credentials(authority, private_key=pem, certificate_chain=pem)
    options = [
        ("grpc.ssl_target_name_override", XDS_SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
    ]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        while not ending.is_set():
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # a cancelled call may raise it, too
                await kind(channel.stream_stream(DELTA)())
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), RETRY_S)


async def main(port: str, authority: str, *certificates: str) -> None:
    root = await asyncio.to_thread(Path(authority).read_bytes)
    tasks = [
        asyncio.create_task(misbehave(int(port), root, Path(path), KINDS[number % len(KINDS)]))
        for number, path in enumerate(certificates)
    ]
    await asyncio.to_thread(sys.stdin.read)
    ending.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(done))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
