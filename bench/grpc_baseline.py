"""A bare gRPC server to compare with: it pushes given bytes to every stream and reads what comes back, nothing else.

It has the options, the TLS and the event loop of the xDS server. As a program it is told on stdin what to push, as JSON
objects, one a line, and says on stdout when it began.
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

from bench.process import Process, ended
from bench.testbed import Testbed
from model.authority import issue_server
from xds.translate.names import ENDPOINT
from xds.wire.discovery_pb2 import DeltaDiscoveryResponse, Resource

_SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class BaselineService:
    """Keeps the streams, each with what is to be written to it."""

    def __init__(self) -> None:
        self.streams: set[asyncio.Queue[bytes]] = set()

    async def serve(self, _: Any, context: Any) -> None:
        box: asyncio.Queue[bytes] = asyncio.Queue()
        self.streams.add(box)
        reading = asyncio.ensure_future(self._read(context))
        try:
            while True:
                await context.write(await box.get())
        finally:
            self.streams.discard(box)
            reading.cancel()

    async def _read(self, context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            pass

    def push(self, data: bytes) -> None:
        for box in self.streams:
            box.put_nowait(data)


def response(revision: int, size: int) -> bytes:
    """One resource of endpoints in a response of about `size` bytes."""
    message = DeltaDiscoveryResponse(type_url=ENDPOINT, nonce=str(revision), system_version_info=str(revision))
    resource = Resource(name="pool/bench", version=str(revision))
    resource.resource.value = bytes(max(0, size - message.ByteSize() - resource.ByteSize() - 8))
    message.resources.append(resource)
    return message.SerializeToString()


async def serve(folder: Path) -> None:
    """Serve until stdin ends; `folder` holds the certificates."""
    credentials = grpc.ssl_server_credentials(
        [((folder / "bare.key").read_bytes(), (folder / "bare.pem").read_bytes())],
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
        told = json.loads(line)
        answer = {"at_ns": time.monotonic_ns(), "streams": len(pusher.streams)}
        if "revision" in told:
            pusher.push(response(told["revision"], told["size"]))
        print(json.dumps(answer), flush=True)
    await server.stop(None)


class Baseline:
    """The benchmark's end of it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = Process(process.pid)
        self.port = port
        self._pipes = process

    async def push(self, revision: int, size: int) -> int:
        """Push to all streams; when it began (`time.monotonic_ns`)."""
        return int((await self._ask(revision=revision, size=size))["at_ns"])

    async def until_streams(self, count: int) -> None:
        """Wait until it has so many streams."""
        async with asyncio.timeout(60):
            while (await self._ask())["streams"] < count:  # noqa: ASYNC110 - they are another process's
                await asyncio.sleep(0.05)

    async def _ask(self, **fields: int) -> dict[str, int]:
        assert self._pipes.stdin is not None
        assert self._pipes.stdout is not None
        self._pipes.stdin.write(json.dumps(fields).encode() + b"\n")
        return dict(json.loads(await self._pipes.stdout.readline()))


@asynccontextmanager
async def open_bare(bed: Testbed) -> AsyncIterator[Baseline]:
    """A bare server with a certificate of the bed's authority, while the block lasts."""
    pair = issue_server(bed.authority, datetime.now(UTC))
    (bed.folder / "bare.key").write_text(pair.key_pem)
    (bed.folder / "bare.pem").write_text(pair.certificate_pem)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.grpc_baseline", str(bed.folder)), stdin=pipe, stdout=pipe, start_new_session=True
    )
    async with ended(process):
        assert process.stdout is not None
        yield Baseline(process, json.loads(await process.stdout.readline())["port"])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(Path(sys.argv[1])))
