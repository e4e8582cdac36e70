"""A minimal gRPC server as a baseline: it pushes bytes to every stream, and reads and discards requests.

It has the options, the TLS and the event loop of the xDS server. As a program it reads commands from stdin, a JSON object
on each line, and prints the start time of each push.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import uvloop

from bench.process import Process, terminating
from bench.testbed import Testbed
from model.authority import issue_server
from xds.translate.names import ENDPOINT
from xds.wire.discovery_pb2 import DeltaDiscoveryResponse, Resource

_SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class BaselineService:
    """The service, which has a queue of responses for each stream."""

    def __init__(self) -> None:
        self.streams: set[asyncio.Queue[bytes]] = set()

    async def serve(self, _: Any, context: Any) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.streams.add(queue)
        reading = asyncio.ensure_future(self._read(context))
        try:
            while True:
                await context.write(await queue.get())
        finally:
            self.streams.discard(queue)
            reading.cancel()

    async def _read(self, context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            pass

    def push(self, data: bytes) -> None:
        for queue in self.streams:
            queue.put_nowait(data)


def response(revision: int, size: int) -> bytes:
    """Build a response of about `size` bytes with one resource of endpoints."""
    message = DeltaDiscoveryResponse(type_url=ENDPOINT, nonce=str(revision), system_version_info=str(revision))
    resource = Resource(name="pool/bench", version=str(revision))
    resource.resource.value = bytes(max(0, size - message.ByteSize() - resource.ByteSize() - 8))
    message.resources.append(resource)
    return message.SerializeToString()


async def serve(folder: Path) -> None:
    """Serve until stdin ends; `folder` contains the certificates."""
    credentials = grpc.ssl_server_credentials(
        [((folder / "baseline.key").read_bytes(), (folder / "baseline.pem").read_bytes())],
        root_certificates=(folder / "authority.pem").read_bytes(),
        require_client_auth=True,
    )
    pusher = BaselineService()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.stream_stream_rpc_method_handler(pusher.serve)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(_SERVICE, {"DeltaAggregatedResources": handler})]
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        answer = {"at_ns": time.monotonic_ns(), "streams": len(pusher.streams)}
        if "revision" in command:
            pusher.push(response(command["revision"], command["size"]))
        print(json.dumps(answer), flush=True)
    await server.stop(None)


class Baseline:
    """The benchmark's handle of a running baseline server."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = Process(process.pid)
        self.port = port
        self._pipes = process

    async def push(self, revision: int, size: int) -> int:
        """Push to all streams, and return the start time (`time.monotonic_ns`)."""
        return int((await self._command(revision=revision, size=size))["at_ns"])

    async def until_streams(self, count: int) -> None:
        """Wait until it has `count` streams."""
        async with asyncio.timeout(60):
            while (await self._command())["streams"] < count:  # noqa: ASYNC110 - another process has no event to wait for
                await asyncio.sleep(0.05)

    async def _command(self, **fields: int) -> dict[str, int]:
        assert self._pipes.stdin is not None
        assert self._pipes.stdout is not None
        self._pipes.stdin.write(json.dumps(fields).encode() + b"\n")
        return dict(json.loads(await self._pipes.stdout.readline()))


@asynccontextmanager
async def open_baseline(testbed: Testbed) -> AsyncIterator[Baseline]:
    """Run a baseline server with a certificate of the testbed's authority while the block lasts."""
    pair = issue_server(testbed.authority, datetime.now(UTC))
    (testbed.folder / "baseline.key").write_text(pair.key_pem)
    (testbed.folder / "baseline.pem").write_text(pair.certificate_pem)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.grpc_baseline", str(testbed.folder)),
        stdin=pipe,
        stdout=pipe,
        start_new_session=True,
    )
    async with terminating(process):
        assert process.stdout is not None
        yield Baseline(process, json.loads(await process.stdout.readline())["port"])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(Path(sys.argv[1])))
