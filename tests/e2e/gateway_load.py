"""Requests in a loop through gateways without users, and what became of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

TIMEOUT_S = 60.0
PAGE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\npage\n"


@dataclass
class GatewayLoad:
    """Clients of one gateway: each repeats requests for a country, alternately by CONNECT and by plain HTTP.

    A stable country has a healthy exit all the time, so that each of its requests must succeed. A changing one may have no
    exit (503, UH) or no pool (404); but no route may name a cluster that is missing (503, NC).
    """

    gateway: str
    port: int
    page_port: int
    stable: Sequence[str]
    changing: Callable[[], Sequence[str]]
    counts: Counter[str] = field(default_factory=Counter)
    """Answers by kind of country and status."""
    _failures: list[str] = field(default_factory=list)

    def take_failures(self) -> list[str]:
        """Return the failures since the last call."""
        taken, self._failures = self._failures, []
        return taken

    async def run(self, number: int, every_s: float) -> None:
        """Send requests until cancelled."""
        chance = random.Random(f"{self.gateway} {number}")
        for tunnel in cycle((True, False)):
            await asyncio.sleep(every_s)
            steady = chance.random() < 0.5
            country = chance.choice(self.stable if steady else self.changing())
            try:
                status, text = await request(self.port, self.page_port, country, tunnel=tunnel)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                status, text = 0, repr(error)
            self.counts[f"{'stable' if steady else 'changing'} {status}"] += 1
            missing = status == 503 and "(UH)" not in text
            if status != 200 and (steady or missing or status not in (404, 503)):
                self._failures.append(f"{self.gateway} {country}: {status} {text.strip()}")


async def request(port: int, page_port: int, country: str, *, tunnel: bool) -> tuple[int, str]:
    """Request the page through a gateway. Return the status and the body."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            page = f"127.0.0.1:{page_port}"
            get = f"Host: {page}\r\nConnection: close\r\n"
            if tunnel:
                writer.write(f"CONNECT {page} HTTP/1.1\r\nHost: {page}\r\nexit-country: {country}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if (status := int(head.split()[1])) != 200:
                    return status, (await reader.read()).decode(errors="replace")
                writer.write(f"GET / HTTP/1.1\r\n{get}\r\n".encode())
            else:
                writer.write(f"GET http://{page}/ HTTP/1.1\r\n{get}exit-country: {country}\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            if not head:
                raise ConnectionError("the connection ended without an answer")
            return int(head.split()[1]), body.decode(errors="replace")
        finally:
            writer.close()


@asynccontextmanager
async def serve_page() -> AsyncIterator[int]:
    """Serve a page on loopback, and yield its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(PAGE)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # a health check or a connection in advance
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def running(loads: Sequence[GatewayLoad], *, clients: int, every_s: float) -> AsyncIterator[None]:
    """Run the clients of each load while the block lasts."""
    tasks = [asyncio.ensure_future(load.run(number, every_s)) for load in loads for number in range(clients)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} <= {asyncio.CancelledError}, ends
