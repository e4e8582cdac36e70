"""Clients of tunnels: `tunnel_clients.py COMMAND JSON`, where the JSON has the command's arguments.

They open tunnels by CONNECT over HTTP/1.1 through the gateway at `proxy`, or connect to the target when there is none. Each command
prints its result as JSON; times are in seconds. `hold` prints it once its tunnels are open, and runs until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, Final, cast

import uvloop

_SEND: Final = b"send"
_TIMEOUT_S: Final = 30.0
_READ_BYTES: Final = 1024 * 1024
_BYTES_PER_MB: Final = 1_000_000

Address = Sequence[Any]
"""A host and a port."""


def _connect_request(target: Address, country: str) -> bytes:
    authority = f"{target[0]}:{target[1]}"
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nexit-country: {country}\r\n\r\n".encode()


def connect(target: Address, proxy: Address | None, country: str) -> socket.socket:
    """Open a tunnel, or a direct connection. Raises OSError."""
    host, port = proxy or target
    client = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if proxy:
        client.sendall(_connect_request(target, country))
        head = client.recv(4096)
        if b" 200 " not in head:
            client.close()
            raise ConnectionError(f"the gateway refused a tunnel: {head!r}")
    return client


# -- opening -----------------------------------------------------------------------------------------------------------


class ConnectProtocol(asyncio.Protocol):
    """Sends a CONNECT; the result of `answer` is the first part of the response."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.WriteTransport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(error or ConnectionError("closed without an answer"))


class TunnelOpener:
    """Opens tunnels, and closes each after `lifetime_s`.

    `took_s` has the time until each was open, `failures` counts errors by their text.
    """

    def __init__(self, target: Address, proxy: Address, country: str, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
        self._request = _connect_request(target, country)
        self._proxy = proxy
        self.took_s: list[float] = []
        self.failures: Counter[str] = Counter()

    async def open(self) -> None:
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                transport, protocol = await asyncio.get_running_loop().create_connection(
                    lambda: ConnectProtocol(self._request), *self._proxy
                )
                with closing(transport):
                    head = await protocol.answer
                    took_s = time.perf_counter() - began_s
                    await asyncio.sleep(self._lifetime_s)
        except (OSError, TimeoutError) as error:
            self.failures[repr(error)] += 1
            return
        if b" 200 " in head:
            self.took_s.append(took_s)
        else:
            self.failures[head.partition(b"\r\n")[0].decode(errors="replace")] += 1

    async def open_in_turn(self, numbers: Iterator[int]) -> None:
        """Open tunnels one after another until the numbers, which others may share, are used up."""
        for _ in numbers:
            await self.open()


async def _open_all(opener: TunnelOpener, tunnels: int, clients: int, rate: float) -> None:
    """Open tunnels: at a rate per second, each when it is due, or with a rate of 0 as fast as so many clients can."""
    numbers = iter(range(tunnels))
    async with asyncio.TaskGroup() as tasks:
        if not rate:
            for _ in range(clients):
                tasks.create_task(opener.open_in_turn(numbers))
            return
        began_s = time.monotonic()
        for number in numbers:
            await asyncio.sleep(began_s + number / rate - time.monotonic())
            tasks.create_task(opener.open())


def open_tunnels(
    *,
    target: Address,
    proxy: Address,
    country: str,
    tunnels: int,
    clients: int = 1,
    rate: float = 0,
    lifetime_s: float = 0,
) -> dict[str, Any]:
    """Open tunnels and close them. The result has the times until they were open, the failures, and the time of it all."""
    opener = TunnelOpener(target, proxy, country, lifetime_s)
    began_s = time.perf_counter()
    uvloop.run(_open_all(opener, tunnels, clients, rate))
    return {"took_s": opener.took_s, "failures": opener.failures, "elapsed_s": time.perf_counter() - began_s}


# -- open tunnels ------------------------------------------------------------------------------------------------------


def echo(
    *, target: Address, proxy: Address | None = None, country: str, rounds: int, size_bytes: int
) -> dict[str, Any]:
    """Measure round trips in one tunnel, one after another."""
    message, took_s = bytes(size_bytes), []
    with closing(connect(target, proxy, country)) as client:
        for _ in range(rounds):
            began_s = time.perf_counter()
            client.sendall(message)
            missing = size_bytes
            while missing:
                received = len(client.recv(missing))
                if not received:
                    raise ConnectionError("the tunnel ended")
                missing -= received
            took_s.append(time.perf_counter() - began_s)
    return {"took_s": took_s}


def download(
    *, target: Address, proxy: Address | None = None, country: str, tunnels: int, seconds: float
) -> dict[str, Any]:
    """Read from all tunnels for some time. The result is the rate of all together, in MB/s."""
    buffer, received = memoryview(bytearray(_READ_BYTES)), 0
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(tunnels):
            client = stack.enter_context(closing(connect(target, proxy, country)))
            client.sendall(_SEND)
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ, client)
        began_s = time.perf_counter()
        while (elapsed_s := time.perf_counter() - began_s) < seconds:
            for key, _ in selector.select(seconds - elapsed_s):
                count = key.data.recv_into(buffer)
                if not count:
                    raise ConnectionError("a tunnel ended")
                received += count
    return {"mb_per_s": received / elapsed_s / _BYTES_PER_MB}


def hold(*, target: Address, proxy: Address, country: str, tunnels: int, unread: bool = False) -> dict[str, Any]:
    """Open tunnels and keep them; with `unread`, request bytes without end in each, and read none."""
    for _ in range(tunnels):
        client = connect(target, proxy, country)
        if unread:
            client.sendall(_SEND)
        _held.append(client)
    return {"tunnels": len(_held)}


_held: Final[list[socket.socket]] = []
COMMANDS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "open": open_tunnels,
    "echo": echo,
    "download": download,
    "hold": hold,
}


def main() -> None:
    command, arguments = sys.argv[1:]
    print(json.dumps(COMMANDS[command](**json.loads(arguments))), flush=True)
    while _held:
        time.sleep(3600)


if __name__ == "__main__":
    main()
