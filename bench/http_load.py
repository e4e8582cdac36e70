"""An open-loop load generator with an even rate: `python -m bench.http_load PORT RATE SECONDS FILE`.

FILE contains the raw requests, each after its length (4 bytes), which are sent in order, repeatedly. Each is sent at its due
time, on a free or new connection, independently of earlier ones; its delay counts from the due time. Prints JSON: the delays
in seconds, and the count of each status, or of each error without a reply.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from itertools import cycle, islice
from pathlib import Path

import uvloop

CONNECTIONS_MAX = 256
TIMEOUT_S = 10.0
IDLE_MAX_S = 2.0
_LENGTH = b"content-length:"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def pack(requests: list[bytes], path: Path) -> None:
    """Write requests to a file."""
    with path.open("wb") as file:
        for request in requests:
            file.write(len(request).to_bytes(4) + request)


def unpack(path: Path) -> list[bytes]:
    raw, requests, at = path.read_bytes(), [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4])
        requests.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return requests


class OpenLoopClient:
    """A client that sends each request at its due time, and records delays and statuses."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[float, Connection]] = []
        """Free connections with the time of their last use, in this order."""
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self.delays: list[float] = []
        self.statuses: Counter[int | str] = Counter()

    async def send(self, request: bytes, due: float) -> None:
        status: int | str
        async with self._room:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    connection = self._take() or await asyncio.open_connection("127.0.0.1", self._port)
                    status = await exchange(connection, request)
                    self._free.append((time.monotonic(), connection))
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                status = repr(error)
        self.delays.append(time.monotonic() - due)
        self.statuses[status] += 1

    def _take(self) -> Connection | None:
        """Return the most recently used free connection. Close them all if it was idle for too long for the server."""
        used, connection = self._free.pop() if self._free else (0.0, None)
        if connection is None or time.monotonic() - used < IDLE_MAX_S:
            return connection
        for _, (_, writer) in [*self._free, (used, connection)]:
            writer.close()
        self._free.clear()
        return None


async def exchange(connection: Connection, request: bytes) -> int:
    reader, writer = connection
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(_LENGTH)[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12])


async def run(port: int, rate: float, seconds: float, requests: list[bytes]) -> OpenLoopClient:
    load = OpenLoopClient(port)
    began = time.monotonic() + 0.5
    async with asyncio.TaskGroup() as tasks:
        for number, request in enumerate(islice(cycle(requests), int(rate * seconds))):
            due = began + number / rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            tasks.create_task(load.send(request, due))
    return load


def main() -> None:
    port, rate, seconds, path = sys.argv[1:]
    load = uvloop.run(run(int(port), float(rate), float(seconds), unpack(Path(path))))
    print(json.dumps({"delays_s": load.delays, "statuses": load.statuses}))


if __name__ == "__main__":
    main()
