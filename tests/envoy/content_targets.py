"""Targets that send CONTENT and end the connection, and a target that receives it."""

from __future__ import annotations

import fcntl
import queue
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

import grpc

from tests.envoy.download_clients import CONTENT, GO, GRPC_METHOD, READ_BYTES
from tests.envoy.envoy_process import eventually

End = Callable[[socket.socket], None]
_END_OF_HEAD = b"\r\n\r\n"
_UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
_UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def end_by_fin(_connection: socket.socket) -> None:
    """Leave it to the server, which closes the connection."""


def end_by_rst_after_fin(connection: socket.socket) -> None:
    """End the sending side, and reset the connection once the exit's kernel has acknowledged all of it.

    A server's kernel does so when the client still sends after the server has closed.
    """
    connection.shutdown(socket.SHUT_WR)
    nothing = struct.pack("i", 0)
    eventually(lambda: fcntl.ioctl(connection, termios.TIOCOUTQ, nothing) == nothing)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _SendContent(BaseRequestHandler):
    """Sends CONTENT: into a tunnel, after an upgrade, or as a body that ends with the connection."""

    def handle(self) -> None:
        head = self.request.recv(READ_BYTES)
        while head and head != GO and not head.endswith(_END_OF_HEAD):
            head += self.request.recv(READ_BYTES)
        if b"upgrade: websocket" in head.lower():
            self.request.sendall(_UPGRADED)
            head = self.request.recv(READ_BYTES)
        elif head != GO:
            self.request.sendall(_UNTIL_CLOSE)
        with suppress(ConnectionError):  # the client's assertion says more
            self.request.sendall(CONTENT)
            self.server.end(self.request)


class _ContentServer(ThreadingTCPServer):
    request_queue_size = 128
    end: End

    def shutdown_request(self, request: socket.socket) -> None:
        self.close_request(request)  # the library's would send a FIN first


@contextmanager
def content_server(end: End) -> Iterator[int]:
    """Run a target that sends CONTENT, and ends each connection by `end`. Yields its port."""
    with _ContentServer(("127.0.0.1", 0), _SendContent) as server:
        server.end = end
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def grpc_content_server() -> Iterator[int]:
    """Run a gRPC server that sends CONTENT. Yields its port. Clients end their connections, as gRPC's do."""
    parts = [CONTENT[at : at + READ_BYTES] for at in range(0, len(CONTENT), READ_BYTES)]
    service, _, method = GRPC_METHOD[1:].partition("/")
    handler = grpc.unary_stream_rpc_method_handler(lambda _request, _context: iter(parts))
    server = grpc.server(ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


ANSWER = b"!"


class _ReceiveContent(BaseRequestHandler):
    """Receives bytes to their end, or all of CONTENT; then sends ANSWER, and puts their number into the server's queue.

    -1 if they are not those of CONTENT.
    """

    def handle(self) -> None:
        received = bytearray()
        with suppress(ConnectionError):
            while len(received) < len(CONTENT) and (part := self.request.recv(READ_BYTES)):
                received += part
            self.request.sendall(ANSWER)
        self.server.received.put(len(received) if CONTENT.startswith(received) else -1)


class _UploadServer(ThreadingTCPServer):
    request_queue_size = 128
    received: queue.Queue[int]


@contextmanager
def upload_server() -> Iterator[tuple[int, queue.Queue[int]]]:
    """Run a target that receives CONTENT. Yields its port, and a queue with the number of bytes of each upload."""
    with _UploadServer(("127.0.0.1", 0), _ReceiveContent) as server:
        server.received = queue.Queue()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1], server.received
        server.shutdown()
        thread.join()
