"""Clients of a gateway that download CONTENT at several paces, by HTTP/1.1, HTTP/2, and gRPC within a tunnel."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException, HTTPResponse
from itertools import chain, repeat
from tempfile import TemporaryDirectory
from typing import Protocol

import grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from tests.envoy.envoy_process import BOUND_S

CONTENT = hashlib.shake_256(b"content").digest(8 * 1024 * 1024)
"""The bytes of each download. No two parts are equal, so that lost, repeated and moved parts are noticed."""
READ_BYTES = 16_384
GO = b"?"
"""The byte in a tunnel or a WebSocket that requests CONTENT."""
GRPC_METHOD = "/test.Content/Get"
_BUFFER_BYTES = 65_536
_PAUSE_EACH_READ_S, _STALL_S = 0.001, 1.2
_STALLS_AFTER_READS = 64

PACES = {
    "fast": (),
    "slow": (_PAUSE_EACH_READ_S,) * (len(CONTENT) // READ_BYTES),
    "stalling": (*(0.0,) * _STALLS_AFTER_READS, _STALL_S),  # longer than Envoy's default delayed close timeout, 1 s
}
"""The pauses before a client's first reads, in seconds."""


class RequestKind(StrEnum):
    """A kind of request."""

    CONNECT = "CONNECT"
    WEBSOCKET = "WebSocket"
    PLAIN = "plain HTTP"


class ClientStream(Protocol):
    """The client's end of a tunnel, a WebSocket, or the body of a response."""

    status: int

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, size: int, /) -> bytes:
        """Return the next bytes, or none at the end. Raises OSError or HTTPException if it ended otherwise."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class DownloadResult:
    """The number of bytes that a client received, all as in CONTENT, and the error that ended the download."""

    received: int
    error: str = ""

    @property
    def is_whole(self) -> bool:
        return self.received == len(CONTENT) and not self.error


WRONG_BYTES = "received other bytes than were sent"


def download(stream: ClientStream, pauses_s: tuple[float, ...] = ()) -> DownloadResult:
    """Read CONTENT to its end."""
    received = 0
    try:
        for pause_s in chain(pauses_s, repeat(0.0)):
            _pause(pause_s)
            part = stream.recv(READ_BYTES)
            if not part:
                break
            if part != CONTENT[received : received + len(part)]:
                return DownloadResult(received, WRONG_BYTES)
            received += len(part)
    except (OSError, HTTPException) as error:
        return DownloadResult(received, str(error) or repr(error))
    return DownloadResult(received)


def _pause(pause_s: float) -> None:
    if pause_s:
        threading.Event().wait(pause_s)


def _connect(port: int) -> socket.socket:
    """Connect to a gateway, with a small buffer, so that unread bytes wait in the Envoys."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    client.settimeout(BOUND_S)
    client.connect(("127.0.0.1", port))
    return client


def _close(client: socket.socket) -> None:
    with suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads
    client.close()


class Http1Stream:
    """A request by HTTP/1.1, on a connection of its own."""

    def __init__(self, port: int, target: str, kind: RequestKind, headers: Mapping[str, str]) -> None:
        path = target if kind is RequestKind.CONNECT else f"http://{target}/"
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"} if kind is RequestKind.WEBSOCKET else {}
        fields = {"Host": target, **upgrade, **headers}
        lines = [f"{'CONNECT' if kind is RequestKind.CONNECT else 'GET'} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        self._socket = _connect(port)
        self._socket.sendall("\r\n".join((*lines, "", "")).encode())
        self._body: HTTPResponse | None = None
        if kind is RequestKind.PLAIN:
            self._body = HTTPResponse(self._socket)
            self._body.begin()
            self.status = self._body.status
        else:
            self.status = self._read_status()

    def _read_status(self) -> int:
        """Read the head of a response, and no byte after it."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = self._socket.recv(1)
            assert more, head
            head += more
        return int(head.split()[1])

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end_sending(self) -> None:
        """Half-close the tunnel."""
        self._socket.shutdown(socket.SHUT_WR)

    def recv(self, size: int) -> bytes:
        return self._body.read1(size) if self._body else self._socket.recv(size)

    def close(self) -> None:
        if self._body:
            self._body.close()
        _close(self._socket)


class Http2Stream:
    """A request by HTTP/2, on a connection of its own, with the default windows."""

    def __init__(self, port: int, target: str, kind: RequestKind, headers: Mapping[str, str]) -> None:
        pseudo = {":method": "GET" if kind is RequestKind.PLAIN else "CONNECT", ":authority": target}
        if kind is not RequestKind.CONNECT:
            pseudo |= {":scheme": "http", ":path": "/"}
        if kind is RequestKind.WEBSOCKET:
            pseudo |= {":protocol": "websocket"}  # RFC 8441, section 4
        self.status = 0
        self._received = bytearray()
        self._ended = False
        self._error: ConnectionError | None = None
        self._lock = threading.Lock()
        self._protocol = H2Connection(H2Configuration(header_encoding="utf-8", validate_outbound_headers=False))
        self._socket = _connect(port)
        self._protocol.initiate_connection()
        self._protocol.send_headers(1, [*pseudo.items(), *headers.items()], end_stream=kind is RequestKind.PLAIN)
        self._flush()
        while not self.status and not self._error:
            self._read()

    def sendall(self, data: bytes) -> None:
        with self._lock:
            try:
                self._protocol.send_data(1, data)
            except ProtocolError as error:
                raise ConnectionError(repr(error)) from error
            self._flush()

    def recv(self, size: int) -> bytes:
        while not (self._received or self._ended or self._error):
            self._read()
        if not self._received and self._error:
            raise self._error
        part = bytes(self._received[:size])
        del self._received[:size]
        if part and not (self._ended or self._error):
            with self._lock:
                self._protocol.acknowledge_received_data(len(part), 1)
                self._flush()
        return part

    def close(self) -> None:
        _close(self._socket)

    def _read(self) -> None:
        data = self._socket.recv(_BUFFER_BYTES)
        if not data:
            self._error = ConnectionError("the connection ended")
            return
        with self._lock:
            for event in self._protocol.receive_data(data):
                match event:
                    case ResponseReceived():
                        self.status = int(dict(event.headers)[":status"])
                    case DataReceived():
                        self._received += event.data
                    case StreamEnded():
                        self._ended = True
                    case StreamReset():
                        self._error = ConnectionResetError(f"RST_STREAM {event.error_code!r}")
            self._flush()

    def _flush(self) -> None:
        with suppress(ConnectionError):  # the reader finds out
            self._socket.sendall(self._protocol.data_to_send())


def download_by_grpc(tunnel: ClientStream, pauses_s: tuple[float, ...] = ()) -> DownloadResult:
    """Download CONTENT by a gRPC call within a tunnel."""
    received, pauses = 0, iter(pauses_s)
    with _relayed(tunnel) as address, grpc.insecure_channel(f"unix:{address}") as channel:
        try:
            for part in channel.unary_stream(GRPC_METHOD)(GO, timeout=BOUND_S):
                if part != CONTENT[received : received + len(part)]:
                    return DownloadResult(received, WRONG_BYTES)
                received += len(part)
                _pause(next(pauses, 0))
        except grpc.RpcError as error:
            return DownloadResult(received, str(error.code()))
        return DownloadResult(received)


@contextmanager
def _relayed(tunnel: ClientStream) -> Iterator[str]:
    """Listen on a Unix socket, and relay its only connection through a tunnel. Yields its path."""
    with TemporaryDirectory() as folder, closing(socket.socket(socket.AF_UNIX)) as listener:
        path = f"{folder}/tunnel"
        listener.bind(path)
        listener.listen()
        listener.settimeout(BOUND_S)

        def relay() -> None:
            with closing(listener.accept()[0]) as client:
                back = threading.Thread(target=_copy, args=(tunnel, client))
                back.start()
                _copy(client, tunnel)
                tunnel.close()
                back.join()

        thread = threading.Thread(target=relay)
        thread.start()
        yield path
        thread.join(BOUND_S)


def _copy(source: ClientStream | socket.socket, sink: ClientStream | socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(_BUFFER_BYTES):
            sink.sendall(part)
