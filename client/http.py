"""An HTTP/1.1 client of one origin on asyncio's streams and h11, with kept connections, timeouts and streamed replies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

import h11

from client.cookies import CookieJar
from client.headers import Headers

_CONNECT_S: Final = 10.0
_READ_S: Final = 120.0
"""The longest silence of the server during an exchange."""
_IDLE_S: Final = 4.0
"""The time that an unused connection is kept: servers close theirs after five seconds or more."""
_CHUNK: Final = 65_536


class BadUrl(ValueError):
    """A URL that is not an origin of HTTP."""


class BadHeader(ValueError):
    """A header field that HTTP cannot carry."""


class NotConnected(Exception):
    """No connection was accepted, so nothing was sent."""


class NotTrusted(NotConnected):
    """The server's certificate is for another name, or not signed by a trusted authority."""


class BadAuthority(Exception):
    """The file of the authority that a server's certificate must be signed by cannot be used."""


class ConnectionBroken(Exception):
    """The connection ended, or timed out, before the reply was complete."""


class HttpResponse:
    """A reply whose body is read as it arrives. Methods raise ConnectionBroken."""

    def __init__(self, connection: _Connection, head: h11.Response) -> None:
        self._connection = connection
        self.status = head.status_code
        self.headers = Headers((name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in the chunks that arrive."""
        while not isinstance(event := await self._connection.receive(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def read(self) -> bytes:
        """Read the whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines of the body without their ends, each as soon as it is complete."""
        rest = b""
        async for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r")
        if rest:
            yield rest


class HttpOrigin:
    """A client of one server, which keeps connections and cookies.

    The server's certificate must be signed by an authority of `ca`, a file in PEM, or by one that the system trusts for None.
    """

    def __init__(self, url: str, ca: Path | None = None) -> None:
        self._url = url
        self._ca = ca
        self._tls: ssl.SSLContext | None = None
        self._idle: list[_Connection] = []
        self._closed = False
        self._cookies = CookieJar()

    async def close(self) -> None:
        """Close the idle connections; one in use ends with its request."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    @asynccontextmanager
    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> AsyncIterator[HttpResponse]:
        """Send a request for a target below the origin's URL. Raises BadUrl, BadHeader, BadAuthority, NotConnected, ConnectionBroken."""
        base, port = _split(self._url)
        path, secure = base.path.rstrip("/") + target, base.scheme == "https"
        cookies = self._cookies.header(path.partition("?")[0], secure=secure)
        fields = {"Host": base.netloc, "Accept": "*/*", **headers}
        if cookies:
            fields["Cookie"] = cookies
        if body or method in {"POST", "PUT", "PATCH"}:
            fields["Content-Length"] = str(len(body))
        head = _head(method, path, fields)
        if secure and self._tls is None:
            self._tls = _open_context(self._ca)
        context = self._tls if secure else None
        connection = self._take_idle() or await _connect(base.hostname or "", port, context)
        try:
            response = HttpResponse(connection, await connection.send(head, body))
            self._cookies.update(response.headers.all_of("Set-Cookie"))
            yield response
        finally:
            if connection.start_next_cycle() and not self._closed:
                self._idle.append(connection)
            else:
                connection.abort()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable():
                return connection
            connection.abort()
        return None


class _Connection:
    """A connection and its HTTP state, for one exchange after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = h11.Connection(h11.CLIENT)
        self._used_at = 0.0

    async def send(self, head: h11.Request, body: bytes) -> h11.Response:
        """Send a request, and read the head of the reply."""
        events = [head, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]
        sent = b"".join(self._protocol.send(event) or b"" for event in events)
        try:
            async with asyncio.timeout(_READ_S):
                self._writer.write(sent)
                await self._writer.drain()
        except TimeoutError as error:
            raise ConnectionBroken(f"the server read nothing for {_READ_S:g} s") from error
        except OSError as error:
            raise ConnectionBroken(str(error)) from error
        while not isinstance(event := await self.receive(), h11.Response):
            pass
        return event

    async def receive(self) -> h11.Event:
        """Read the next h11 event of a reply."""
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout(_READ_S):
                    self._protocol.receive_data(await self._reader.read(_CHUNK))
        except TimeoutError as error:
            raise ConnectionBroken(f"the server sent nothing for {_READ_S:g} s") from error
        except (OSError, h11.RemoteProtocolError) as error:
            raise ConnectionBroken(str(error) or type(error).__name__) from error
        if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
            raise ConnectionBroken("the server closed it")
        return event

    def start_next_cycle(self) -> bool:
        """Prepare for another exchange; False if this connection cannot carry one."""
        if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
            return False
        self._protocol.start_next_cycle()
        self._used_at = asyncio.get_running_loop().time()
        return True

    def is_reusable(self) -> bool:
        """Return True if the server is expected to accept another request."""
        idle_s = asyncio.get_running_loop().time() - self._used_at
        return idle_s < _IDLE_S and not self._reader.at_eof() and not self._writer.is_closing()

    def abort(self) -> None:
        """Close the connection at once, with unsent data."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection in order."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


async def _connect(host: str, port: int, context: ssl.SSLContext | None) -> _Connection:
    try:
        async with asyncio.timeout(_CONNECT_S):
            return _Connection(*await asyncio.open_connection(host, port, ssl=context, happy_eyeballs_delay=0.25))
    except TimeoutError as error:
        raise NotConnected(f"no connection within {_CONNECT_S:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise NotTrusted(error.verify_message) from error
    except (OSError, UnicodeError) as error:
        raise NotConnected(str(error)) from error


def _split(url: str) -> tuple[SplitResult, int]:
    """Split an origin's URL into its parts and its port. Raises BadUrl."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        parts.netloc.encode("ascii")
    except (ValueError, KeyError) as error:
        raise BadUrl(url) from error
    if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise BadUrl(url)
    return parts, port


def _head(method: str, target: str, headers: Mapping[str, str]) -> h11.Request:
    """Build the head of a request. Raises BadHeader."""
    try:
        fields = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        return h11.Request(method=method, target=target, headers=fields)
    except (UnicodeError, h11.LocalProtocolError) as error:
        raise BadHeader(str(error)) from error


def _open_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities of a file, or the system's. Raises BadAuthority."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise BadAuthority(f"{ca} cannot be used ({reason})") from error
    context.set_alpn_protocols(["http/1.1"])
    return context
