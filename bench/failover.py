"""What an exit's death and an exit's leak cost clients, with real tunnels (root, network namespaces).

Death: clients ask all the time through a pool of two exits. The tunnel of one is killed again and again; told are the time until
the gateway sent its last request there, the requests that failed, the slowest, and how long after its tunnel was back it served.
The baseline is the slowest request before any death.

Leak: tunnels are open through both exits when the default route of one is led past its tunnel; told is when the last of its
tunnels was cut. None of the other exit's may be.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from bench.report import figure, heading, spread
from demo import http_client
from demo.agents import ExitAgent
from demo.lab import Lab, LabSettings
from demo.setup import open_lab
from demo.underlay import ip_batch

_WITHIN_S: Final = 60.0
_LOOK_S: Final = 0.02
_LONG_BYTES: Final = 100_000_000
_PACE_BYTES: Final = 20_000
"""Of an open tunnel, in a second."""


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench trust", description=__doc__)
    parser.add_argument("--deaths", type=int, default=10)
    parser.add_argument("--leaks", type=int, default=5)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--tunnels", type=int, default=20, help="open while an exit begins to leak")
    return parser.parse_args(given)


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"trust: {options.deaths} deaths under {options.clients} clients, {options.leaks} leaks")
    ports = {"gateway_port": 0, "api_port": 0, "xds_port": 0}
    with open_lab(LabSettings(exits=("us", "us"), tunnels=True, resilience={"falls_borne": 1_000}, **ports)) as lab:
        lab.start()
        deaths(lab, options)
        leaks(lab, options)


@dataclass
class TimedRequest:
    """What became of requests: when each began, how long it took, and its status or failure."""

    took: list[tuple[float, float, str]] = field(default_factory=list)

    def since(self, start_s: float) -> list[tuple[float, float, str]]:
        return [each for each in self.took if each[0] >= start_s]


@contextmanager
def asking(lab: Lab, clients: int) -> Iterator[TimedRequest]:
    """Clients that ask one request after the other, while the block lasts."""
    asked, stop = TimedRequest(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            begun_s = time.monotonic()
            try:
                word = str(lab.request("us").status)
            except OSError as error:
                word = type(error).__name__
            asked.took.append((begun_s, time.monotonic() - begun_s, word))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def deaths(lab: Lab, options: argparse.Namespace) -> None:
    last_s: list[float] = []
    back_s: list[float] = []
    dying = lab.exits[0]
    with asking(lab, options.clients) as asked:
        time.sleep(5)
        alone_s = [took for _, took, _ in asked.took]
        begun_s = time.monotonic()
        for _ in range(options.deaths):
            last_s.append(_last_request_after(lab, dying, dying.kill_tunnel))
            dying.restore_tunnel()
            restored_s, before = time.monotonic(), _requests(lab, dying)
            _until(lambda: _requests(lab, dying) > before)  # noqa: B023 - it is called here only
            back_s.append(time.monotonic() - restored_s)
        during = asked.since(begun_s)
    failed = [word for _, _, word in during if word != "200"]
    spread("death -> last request sent to it", last_s, unit="s", aim_s=3)
    spread("tunnel back -> first request sent to it", back_s, unit="s", aim_s=10)
    spread("requests meanwhile", [took for _, took, _ in during], baseline_s=alone_s)
    figure(f"requests that failed, of {len(during)}", len(failed), at_most=0)
    for word in sorted(set(failed)):
        figure(f"  {word}", failed.count(word))


def _last_request_after(lab: Lab, exit_: ExitAgent, kill: Callable[[], None]) -> float:
    """Seconds from its death until the gateway sent its last request there; watched until nothing came for five seconds."""
    seen, last_s = _requests(lab, exit_), time.monotonic()
    kill()
    died_s = time.monotonic()
    last_s = died_s
    while time.monotonic() - last_s < 5:
        now = _requests(lab, exit_)
        if now != seen:
            seen, last_s = now, time.monotonic()
        time.sleep(_LOOK_S)
    return last_s - died_s


def _requests(lab: Lab, exit_: ExitAgent) -> int:
    """How many requests the gateway has sent to an exit, attempts that failed included."""
    key = f"::{exit_.site.address}:{exit_.site.port}::rq_total::"
    return sum(
        int(line.rpartition("::")[2]) for line in lab.gateway.query_admin("/clusters").splitlines() if key in line
    )


def _until(so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _WITHIN_S
    while not so():
        if time.monotonic() > deadline_s:
            raise TimeoutError("it did not come")
        time.sleep(_LOOK_S)


def leaks(lab: Lab, options: argparse.Namespace) -> None:
    cut_s: list[float] = []
    kept = 0
    for _ in range(options.leaks):
        leaking = lab.exits[0]
        lab.wait_until_healthy()
        with ExitStack() as stack:
            before = _requests(lab, leaking)
            tunnels = [_Tunnel(lab) for _ in range(options.tunnels)]
            for tunnel in tunnels:
                stack.callback(tunnel.close)
            through = _requests(lab, leaking) - before
            begun_s = time.monotonic()
            ethernet, tunnel_interface = leaking.site.ethernet, leaking.site.tunnel
            ip_batch(leaking.namespace, f"route replace default via {lab.plan.internet_address} dev {ethernet}")
            try:
                _until(lambda: sum(each.ended_s is not None for each in tunnels) >= through)  # noqa: B023
                cut_s.append(max(each.ended_s for each in tunnels if each.ended_s is not None) - begun_s)
                time.sleep(2)
                kept += sum(each.ended_s is None for each in tunnels) - (options.tunnels - through)
            finally:
                ip_batch(leaking.namespace, f"route replace default dev {tunnel_interface}")
    spread("leak -> cut of its last open tunnel", cut_s, unit="s", aim_s=3)
    figure("tunnels of the other exit that were cut too", -kept, at_most=0)


class _Tunnel:
    """A CONNECT through the gateway with a slow download in it, and when that ended."""

    def __init__(self, lab: Lab) -> None:
        host, _, port = lab.gateway_address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        target = f"{lab.plan.page_address}:{lab.plan.page_port}"
        wish = "".join(f"{name}: {value}\r\n" for name, value in http_client.user_headers("demo-country-us").items())
        self._socket.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{wish}\r\n".encode())
        if b" 200 " not in self._socket.recv(4096):
            raise ConnectionError("the gateway refused a tunnel")
        path = f"/bytes?n={_LONG_BYTES}&bps={_PACE_BYTES}"
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        self.ended_s: float | None = None
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        self._socket.settimeout(None)
        with suppress(OSError):
            while self._socket.recv(65_536):
                pass
        self.ended_s = time.monotonic()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reading.join()
        self._socket.close()
