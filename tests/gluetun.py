"""A stand-in for gluetun: its control API and its HTTP proxy, as documented, with their possible failures."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.ports import reserve

T = TypeVar("T")
HOP_BY_HOP = {"connection", "upgrade", "te", "trailer", "transfer-encoding"}
"""Headers that gluetun's proxy removes, so that it forwards no upgrade."""
ADDRESSES = {"Netherlands": "198.51.100.1", "Germany": "198.51.100.2", "Japan": "198.51.100.3"}


@dataclass
class ProxiedRequest:
    """A request that a port received: the request line and the headers, with names in lower case."""

    method: str
    target: str
    version: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class GluetunStandIn:
    """The stand-in. Its attributes set its behaviour, and may be changed while it runs."""

    username: str | None = None
    """The user name of the proxy, with `password`; None for a proxy without authentication."""
    password: str | None = None
    stealth: bool = False
    names: dict[str, str] = field(default_factory=dict)
    """The addresses of the names that it can resolve."""
    source: str | None = None
    """The source address of its connections."""
    hangs: bool = False
    """True if its proxy accepts connections and never answers."""
    api_key: str | None = None
    api_user: tuple[str, str] | None = None
    status: str = "running"
    country: str = "Netherlands"
    public_ip: str = ADDRESSES["Netherlands"]
    reconnects: bool = True
    """True if a tunnel that is restarted, or moved to another country, comes up again with another address."""
    override: Callable[[str], bytes | None] = lambda _path: None
    """The complete answer of the control API for a path, instead of the documented one."""
    api_hangs: bool = False
    requests: list[ProxiedRequest] = field(default_factory=list)
    """The requests to its proxy."""
    api_requests: list[ProxiedRequest] = field(default_factory=list)
    """The requests to its control API."""
    proxy_port: int = 0
    control_port: int = 0
    _held: list[socket.socket] = field(default_factory=list)
    """The sockets that reserve the ports while no server listens."""
    _servers: list[asyncio.Server] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{self.control_port}"

    # -- its life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on both ports, the same as before."""
        if not self._held:
            self._held = [reserve(), reserve()]
            self.proxy_port, self.control_port = (held.getsockname()[1] for held in self._held)
        for serve, port in ((self._proxy, self.proxy_port), (self._control, self.control_port)):
            server = await asyncio.start_server(self._guarded(serve), "127.0.0.1", port, reuse_port=True)
            self._servers.append(server)

    async def stop(self) -> None:
        """Close both ports, and abort open connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for writer in [*self._writers]:
            writer.transport.abort()

    def release(self) -> None:
        """Release both ports."""
        for held in self._held:
            held.close()
        self._held.clear()

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine on its loop, from another thread."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def die(self) -> None:
        self.call(self.stop())

    def revive(self) -> None:
        self.call(self.start())

    def _guarded(self, serve: Callable[..., Any]) -> Callable[..., Any]:
        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            try:
                with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    await serve(reader, writer)
            finally:
                self._writers.discard(writer)
                writer.close()

        return run

    # -- the proxy -----------------------------------------------------------------------------------------------------

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read(reader)
        self.requests.append(request)
        if self.hangs:
            await reader.read()
            return
        if request.version != "HTTP/1.1":
            writer.write(_reply(400, b"protocol version not supported"))
        elif self.username is not None and not self._knows(request):
            writer.write(_reply(407, b"", 'Proxy-Authenticate: Basic realm="Access to Gluetun over HTTP"'))
        elif request.method == "CONNECT":
            await self._tunnel(request, reader, writer)
            return
        elif not request.target.startswith("http://"):
            writer.write(_reply(400, b"only absolute targets"))
        else:
            await self._forward(request, writer)
            return
        await writer.drain()

    def _knows(self, request: ProxiedRequest) -> bool:
        return request.headers.get("proxy-authorization") == basic(self.username or "", self.password or "")

    async def _dial(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        source = (self.source, 0) if self.source else None
        return await asyncio.open_connection(self.names.get(host, host), port, local_addr=source)

    async def _tunnel(
        self, request: ProxiedRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, _, port = request.target.rpartition(":")
        try:
            far_reader, far_writer = await self._dial(host.strip("[]"), int(port))
        except OSError:
            writer.write(_reply(503, b"service unavailable"))
            await writer.drain()
            return
        # gluetun's server treats a response to CONNECT as one with a body
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._writers.add(far_writer)
        try:
            await _first_of(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers.discard(far_writer)
            far_writer.close()

    async def _forward(self, request: ProxiedRequest, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(request.target)
        try:
            far_reader, far_writer = await self._dial(url.hostname or "", url.port or 80)
        except OSError:
            writer.write(_reply(503, b"service unavailable"))
            await writer.drain()
            return
        headers = {
            name: value
            for name, value in request.headers.items()
            if not name.startswith("proxy-") and name not in HOP_BY_HOP
        }
        if not self.stealth:
            headers["x-forwarded-for"] = writer.get_extra_info("peername")[0]
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        lines = [f"{request.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        far_writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + request.body)
        try:
            await _pump(far_reader, writer)
        finally:
            far_writer.close()

    # -- the control API -----------------------------------------------------------------------------------------------

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read(reader)
        self.api_requests.append(request)
        if self.api_hangs:
            await reader.read()
            return
        path = urlsplit(request.target).path
        answer = self.override(path)
        if answer is not None:
            writer.write(answer)
        elif not self._admits(request):
            writer.write(_reply(401, b"Unauthorized\n"))
        else:
            status, body = self._answer(request.method, path, request.body)
            writer.write(_reply(status, json.dumps(body).encode(), "Content-Type: application/json"))
        await writer.drain()

    def _admits(self, request: ProxiedRequest) -> bool:
        if self.api_key is not None:
            return request.headers.get("x-api-key") == self.api_key
        return self.api_user is None or request.headers.get("authorization") == basic(*self.api_user)

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        match method, path:
            case "GET", "/v1/version":
                return 200, {"version": "v3.40.0", "commit": "0", "created": "2025-01-01T00:00:00Z"}
            case "GET", "/v1/vpn/status":
                return 200, {"status": self.status}
            case "GET", "/v1/publicip/ip":
                up = self.status == "running"
                return 200, {"public_ip": self.public_ip, "country": self.country} if up else {"public_ip": ""}
            case "GET", "/v1/vpn/settings":
                return 200, {"provider": {"server_selection": {"countries": [self.country]}}}
            case "PUT", "/v1/vpn/status":
                self.status = json.loads(body)["status"]
                if self.status == "running":
                    self._reconnect()
                return 200, {"outcome": self.status}
            case "PUT", "/v1/vpn/settings":
                (self.country,) = json.loads(body)["provider"]["server_selection"]["countries"]
                self._reconnect()
                return 200, {"outcome": "settings updated"}
        return 404, {"error": "not found"}

    def _reconnect(self) -> None:
        if not self.reconnects:
            self.status = "stopped"
            return
        new = ADDRESSES.get(self.country, "198.51.100.9")
        self.public_ip = new if new != self.public_ip else "198.51.100.77"


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


async def _read(reader: asyncio.StreamReader) -> ProxiedRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    method, target, version = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return ProxiedRequest(method, target, version, headers, body)


def _reply(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy all bytes until the end."""
    with suppress(OSError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()


async def _first_of(*coroutines: Any) -> None:
    """Wait for the first coroutine, and cancel the others, as gluetun does; written bytes are still sent."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def running(gluetun: GluetunStandIn) -> Iterator[GluetunStandIn]:
    """Run the stand-in in a thread of its own, for synchronous tests."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    gluetun._loop = loop
    gluetun.revive()
    try:
        yield gluetun
    finally:
        gluetun.die()
        gluetun.release()
        gluetun.call(_settle())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


async def _settle() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
