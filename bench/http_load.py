"""Requests at an even rate, in an open loop, by a process of its own: `python -m bench.http_load PORT RATE SECONDS FILE`.

FILE holds the requests, each as it goes over the wire, after its length (4 bytes); they are sent in order and over again. Each is
sent at its time, on a connection that is free or a new one, whatever became of those before it; its delay counts from that time.
Prints JSON: the delays in seconds, and how often each status came. A reply that never came is status 0.
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
_LENGTH = b"content-length:"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def pack(requests: list[bytes], path: Path) -> None:
    """Write a file of requests."""
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


class Load:
    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[Connection] = []
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self.delays: list[float] = []
        self.statuses: Counter[int] = Counter()

    async def ask(self, request: bytes, due: float) -> None:
        status = 0
        async with self._room:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    connection = (
                        self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
                    )
                    status = await exchange(connection, request)
                    self._free.append(connection)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                pass
        self.delays.append(time.monotonic() - due)
        self.statuses[status] += 1


async def exchange(connection: Connection, request: bytes) -> int:
    reader, writer = connection
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(_LENGTH)[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12])


async def run(port: int, rate: float, seconds: float, requests: list[bytes]) -> Load:
    load = Load(port)
    began = time.monotonic() + 0.5
    async with asyncio.TaskGroup() as tasks:
        for number, request in enumerate(islice(cycle(requests), int(rate * seconds))):
            due = began + number / rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            tasks.create_task(load.ask(request, due))
    return load


def main() -> None:
    port, rate, seconds, path = sys.argv[1:]
    load = uvloop.run(run(int(port), float(rate), float(seconds), unpack(Path(path))))
    print(json.dumps({"delays_s": load.delays, "statuses": load.statuses}))


if __name__ == "__main__":
    main()
