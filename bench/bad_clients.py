"""`python -m bench.rogues PORT SERVER-AUTHORITY CERTIFICATE…`: clients that do everything wrong, one or more of each kind.

They go on until stdin ends, each at a rate that a broken client may well have, and then say on stdout, as JSON, how often each
kind did what it does. They speak through gRPC's own library.
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
from xds.wire.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status

DELTA: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
EVERY_S: Final = 0.05
RETRY_S: Final = 1.0
"""As Envoy does, a client that was turned away comes back after a second or so."""
done: Counter[str] = Counter()
ending: Final = asyncio.Event()


def request(type_url: str, *names: str, **fields: Any) -> bytes:
    return DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, **fields).SerializeToString()


async def never_reads(call: Any) -> None:
    """Asks for everything, again and again, and reads nothing of it."""
    while True:
        await call.write(request(CLUSTER, "*"))
        await call.write(request(ENDPOINT, "*"))
        done["never reads"] += 1
        await asyncio.sleep(RETRY_S)


async def never_answers(call: Any) -> None:
    """Reads, and answers nothing."""
    await call.write(request(CLUSTER))
    while await call.read() is not grpc.aio.EOF:
        done["never answers"] += 1


async def rejects_for_ever(call: Any) -> None:
    """Rejects whatever comes, and asks for it anew."""
    error = Status(code=3, message="no, and no again")
    await call.write(request(CLUSTER))
    while (raw := await call.read()) is not grpc.aio.EOF:
        response = DeltaDiscoveryResponse.FromString(raw)
        done["rejects for ever"] += 1
        await asyncio.sleep(EVERY_S)
        await call.write(request(CLUSTER, "*", response_nonce=response.nonce, error_detail=error))


async def foreign_nonces(call: Any) -> None:
    """Acknowledges what it was never sent."""
    await call.write(request(LISTENER))
    while True:
        await call.write(request(LISTENER, response_nonce="of somebody else"))
        done["foreign nonces"] += 1
        await asyncio.sleep(EVERY_S)


async def unknown_type(call: Any) -> None:
    """Asks for what nobody serves."""
    while True:
        await call.write(request("type.googleapis.com/nobody.knows.This", "a"))
        done["unknown type"] += 1
        await asyncio.sleep(EVERY_S)


async def a_million_names(call: Any) -> None:
    """Asks for a million names at once."""
    await call.write(_million())
    done["a million names"] += 1
    await call.read()


@cache
def _million() -> bytes:
    """Made once: what it costs to make is nobody's but the rogue's."""
    return request(ENDPOINT, *(f"n{number}" for number in range(1_000_000)))


async def a_large_node(call: Any) -> None:
    """Says who it is in 2 MiB."""
    await call.write(request(CLUSTER, node=Node(id="n" * 2 * 1024 * 1024)))
    done["a large node"] += 1
    await call.read()


async def garbage(call: Any) -> None:
    """Sends what is no request."""
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
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # a cancelled call may say so too
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
