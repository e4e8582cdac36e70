"""A simulated fleet of proxies, each on its own connection with mutual TLS, in one process: `python -m bench.simulator`.

It reads commands from stdin, a JSON object on each line, and answers each on stdout. Times are from `time.monotonic_ns`, which
all processes of a host share. It ends with stdin.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import socket
import ssl
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.http2 import GrpcStream
from bench.proxy import SimulatedProxy, read
from model.identity import XDS_SERVER_NAME
from xds.translate.names import ENDPOINT

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
RETRY_S: Final = 0.1
_MOST: Final = 16_384
"""The largest TLS record."""
_READS: Final = 16
"""Reads from one connection before the others have their turn."""


class Link:
    """A proxy and its connection with TLS and HTTP/2."""

    __slots__ = ("established", "proxy", "sock", "stream", "wants")

    def __init__(self, proxy: SimulatedProxy, context: ssl.SSLContext, port: int) -> None:
        self.proxy = proxy
        self.established = False
        self.wants = select.EPOLLIN | select.EPOLLOUT
        plain = socket.socket()
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            plain.connect(("127.0.0.1", port))
        self.sock = context.wrap_socket(plain, server_hostname=XDS_SERVER_NAME, do_handshake_on_connect=False)
        self.stream = GrpcStream(METHOD, XDS_SERVER_NAME)

    def establish(self) -> bool:
        """Continue the handshake; return True once requests may be sent. Raises OSError."""
        try:
            if error := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.wants = select.EPOLLIN
        except ssl.SSLWantWriteError:
            self.wants = select.EPOLLIN | select.EPOLLOUT
        else:
            self.established = True
        return self.established

    def flush(self) -> None:
        """Write as much as the socket accepts."""
        out = self.stream.out
        try:
            while out:
                del out[: self.sock.send(out)]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self.wants = select.EPOLLIN | select.EPOLLOUT
        else:
            self.wants = select.EPOLLIN

    def read(self) -> Iterable[bytes]:
        """Yield received messages. Raises OSError; ConnectionResetError at the end of the connection."""
        for _ in range(_READS):
            try:
                data = self.sock.recv(_MOST)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if not data:
                raise ConnectionResetError
            yield from self.stream.receive(data)
            if len(data) < _MOST // 2:
                return


class PendingCommand:
    """A command that is answered when it is done, or after its timeout."""

    def __init__(self, done: Callable[[], bool], answer: Callable[[], Mapping[str, Any]], timeout_s: float) -> None:
        self.done = done
        self.answer = answer
        self.deadline = time.monotonic() + timeout_s


class Simulator:
    """The event loop: one thread and one epoll."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._links: dict[int, Link] = {}
        self._proxies: list[SimulatedProxy] = []
        self._numbers: dict[SimulatedProxy, int] = {}
        self._certificates: list[Path] = []
        self._authority = ""
        self._port = 0
        self._counts: Mapping[str, int] = {}
        self._to_open: deque[tuple[float, SimulatedProxy]] = deque()
        self._opening: dict[SimulatedProxy, None] = {}
        """Proxies that are connecting, or do not yet hold all their resources."""
        self._most_opening = 1
        self._waiting: PendingCommand | None = None
        self._input = b""
        self._target = 0
        self._behind = 0
        self._log = array("q")
        """Proxy, revision and time of each acknowledgement of endpoints."""
        self._lost = self._refused = self._responses = self._received = self._bodies = 0
        self._words = ""

    def run(self) -> None:
        os.set_blocking(sys.stdin.fileno(), False)
        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        while True:
            for fd, events in self._poll.poll(self._pause_s(), 256):
                link = self._links.get(fd)
                if link is not None:
                    self._serve(link, events)
                elif fd == sys.stdin.fileno() and not self._read_commands():
                    return
            if self._to_open:
                self._open_more()
            if self._waiting is not None:
                self._finish_if_done(self._waiting)

    def _pause_s(self) -> float:
        if self._to_open and len(self._opening) < self._most_opening:
            return min(RETRY_S, max(0.0, self._to_open[0][0] - time.monotonic()))
        return 0.2 if self._waiting else -1

    # -- connections ---------------------------------------------------------------------------------------------------

    def _open_more(self) -> None:
        now = time.monotonic()
        while self._to_open and len(self._opening) < self._most_opening and self._to_open[0][0] <= now:
            proxy = self._to_open.popleft()[1]
            self._opening[proxy] = None
            link = Link(proxy, self._context(self._numbers[proxy]), self._port)
            self._links[link.sock.fileno()] = link
            self._poll.register(link.sock.fileno(), link.wants)

    def _context(self, number: int) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self._authority)
        context.load_cert_chain(self._certificates[number])
        context.set_alpn_protocols(["h2"])
        return context

    def _serve(self, link: Link, events: int) -> None:
        wanted = link.wants
        try:
            if not link.established:
                if link.establish():
                    for request in link.proxy.open():
                        link.stream.send(request)
                    link.flush()
                    self._check_complete(link)
            else:
                if events & ~select.EPOLLOUT:
                    for raw in link.read():
                        self._receive(link, raw)
                if link.stream.out:
                    link.flush()
                if link.stream.ended:
                    raise ConnectionResetError
        except OSError as error:
            self._handle_failure(link, error)
            return
        if link.wants != wanted:
            self._poll.modify(link.sock.fileno(), link.wants)

    def _receive(self, link: Link, raw: bytes) -> None:
        response, proxy = read(raw), link.proxy
        self._responses += 1
        self._received += len(raw)
        self._bodies += response.resource_bytes
        before = proxy.revision
        for request in proxy.take(response):
            link.stream.send(request)
        link.flush()
        if response.type_url == ENDPOINT:
            self._log.extend((self._numbers[proxy], response.revision, time.monotonic_ns()))
            if before < self._target <= proxy.revision:
                self._behind -= 1
        if proxy in self._opening:
            self._check_complete(link)

    def _check_complete(self, link: Link) -> None:
        if link.proxy.holds(self._counts):
            self._opening.pop(link.proxy, None)

    def _handle_failure(self, link: Link, error: OSError) -> None:
        """Retry a failed connection of a proxy that is still connecting; count others as lost."""
        self._close(link)
        self._words = link.stream.last or str(error) or self._words
        if link.proxy in self._opening:
            del self._opening[link.proxy]
            self._refused += 1
            self._to_open.append((time.monotonic() + RETRY_S, link.proxy))
        else:
            self._lost += 1

    def _close(self, link: Link) -> None:
        del self._links[link.sock.fileno()]
        with contextlib.suppress(OSError):
            self._poll.unregister(link.sock.fileno())
        link.sock.close()

    # -- commands ------------------------------------------------------------------------------------------------------

    def _read_commands(self) -> bool:
        """Read commands; False at the end."""
        data = os.read(sys.stdin.fileno(), 65_536)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            answer = getattr(self, f"do_{command.pop('do')}")(**command)
            if isinstance(answer, PendingCommand):
                self._waiting = answer
            else:
                _reply(answer)
        return bool(data)

    def _finish_if_done(self, waiting: PendingCommand) -> None:
        if waiting.done() or time.monotonic() >= waiting.deadline:
            self._waiting = None
            _reply(waiting.answer())

    def do_load(self, authority: str, certificates: Sequence[str]) -> Mapping[str, Any]:
        """Load the proxies: a file for each, with its certificate and key."""
        self._authority = Path(authority).read_text()
        self._certificates = [Path(path) for path in certificates]
        self._proxies = [SimulatedProxy(path.stem) for path in self._certificates]
        self._numbers = {proxy: number for number, proxy in enumerate(self._proxies)}
        return {}

    def do_connect(
        self, port: int, first: int, count: int, at_once: int, counts: Mapping[str, int], timeout_s: float
    ) -> PendingCommand:
        """Connect unconnected proxies, and wait until each holds `counts` resources of each type.

        Refused connections are retried until `timeout_s`.
        """
        self._port, self._counts, self._most_opening = port, counts, at_once
        self._refused, self._words, began = 0, "", time.monotonic()
        self._lost = 0
        connected = {link.proxy for link in self._links.values()}
        self._to_open.extend((0.0, proxy) for proxy in self._proxies[first : first + count] if proxy not in connected)

        def answer() -> Mapping[str, Any]:
            missing = len(self._to_open) + len(self._opening)
            self._to_open.clear()
            return {"missing": missing, "seconds": time.monotonic() - began, **self._errors()}

        return PendingCommand(lambda: not self._to_open and not self._opening, answer, timeout_s)

    def do_await(self, revision: int, timeout_s: float) -> PendingCommand:
        """Wait until every connected proxy has acknowledged endpoints of this revision, or of a later one."""
        self._target = revision
        self._behind = sum(link.proxy.revision < revision for link in self._links.values())
        return PendingCommand(lambda: self._behind <= 0, lambda: {"missing": self._behind, **self._errors()}, timeout_s)

    def do_acknowledgements(self, path: str) -> Mapping[str, Any]:
        """Write the acknowledgements since the last call to a file: proxy, revision and time, 64 bits each."""
        with Path(path).open("wb") as file:
            self._log.tofile(file)
        self._log = array("q")
        return {}

    def do_forget(self) -> Mapping[str, Any]:
        """Disconnect all proxies, and replace them by ones that hold nothing."""
        self.do_disconnect()
        self._proxies = [SimulatedProxy(path.stem) for path in self._certificates]
        self._numbers = {proxy: number for number, proxy in enumerate(self._proxies)}
        return {}

    def do_disconnect(self) -> Mapping[str, Any]:
        for link in [*self._links.values()]:
            self._close(link)
        self._opening.clear()
        return {}

    def do_totals(self) -> Mapping[str, Any]:
        """Report the received responses, and the processor time of this process."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "connected": sum(link.established for link in self._links.values()),
            "responses": self._responses,
            "response_bytes": self._received,
            "resource_bytes": self._bodies,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            **self._errors(),
        }

    def _errors(self) -> Mapping[str, Any]:
        return {"lost": self._lost, "refused": self._refused, "words": self._words}


def _reply(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.disable()  # a pause here would count as the server's
    Simulator().run()
