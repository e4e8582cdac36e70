"""Effects of an exit's death and of an exit's leak on clients, with real tunnels (root, network namespaces).

Death: clients send requests continuously through a pool of two exits, while the tunnel of one is killed repeatedly. Printed
are the time until the gateway sent its last request there, failed requests, request times, and the time from the restored
tunnel to the first request. The baseline is the request times before any death.

Leak: tunnels are open through both exits when the default route of one bypasses its tunnel. Printed is the time until the
last of its tunnels was cut; tunnels of the other exit must stay open.
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

from bench.report import print_heading, print_times, print_value
from demo import http_client
from demo.agents import ExitAgent
from demo.lab import Lab, LabSettings
from demo.setup import open_lab
from demo.underlay import ip_batch

_WITHIN_S: Final = 60.0
_LOOK_S: Final = 0.02
_LONG_BYTES: Final = 100_000_000
_RATE_BPS: Final = 20_000
"""Bytes per second in an open tunnel."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench failover", description=__doc__)
    parser.add_argument("--deaths", type=int, default=10)
    parser.add_argument("--leaks", type=int, default=5)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--tunnels", type=int, default=20, help="open when an exit begins to leak")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(f"failover: {options.deaths} deaths under {options.clients} clients, {options.leaks} leaks")
    resilience = {"flap_threshold": 1_000}
    settings = LabSettings(
        exits=("us", "us"), tunnels=True, resilience=resilience, gateway_port=0, api_port=0, xds_port=0
    )
    with open_lab(settings) as lab:
        lab.start()
        deaths(lab, options)
        leaks(lab, options)


@dataclass
class TimedRequests:
    """The results of requests: start, duration, and status or error of each."""

    took: list[tuple[float, float, str]] = field(default_factory=list)

    def since(self, start_s: float) -> list[tuple[float, float, str]]:
        return [each for each in self.took if each[0] >= start_s]


@contextmanager
def run_clients(lab: Lab, clients: int) -> Iterator[TimedRequests]:
    """Run clients that send one request after another while the block lasts."""
    requests, stop = TimedRequests(), threading.Event()

    def run() -> None:
        while not stop.is_set():
            begun_s = time.monotonic()
            try:
                result = str(lab.request("us").status)
            except OSError as error:
                result = type(error).__name__
            requests.took.append((begun_s, time.monotonic() - begun_s, result))

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield requests
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def deaths(lab: Lab, options: argparse.Namespace) -> None:
    last_s: list[float] = []
    back_s: list[float] = []
    dying = lab.exits[0]
    with run_clients(lab, options.clients) as requests:
        time.sleep(5)
        alone_s = [took for _, took, _ in requests.took]
        begun_s = time.monotonic()
        for _ in range(options.deaths):
            last_s.append(_last_request_after(lab, dying, dying.kill_tunnel))
            dying.restore_tunnel()
            restored_s, before = time.monotonic(), _requests(lab, dying)
            _wait_until(lambda: _requests(lab, dying) > before)  # noqa: B023 - called only within this iteration
            back_s.append(time.monotonic() - restored_s)
        during = requests.since(begun_s)
    failed = [word for _, _, word in during if word != "200"]
    print_times("death -> last request sent to it", last_s, unit="s", aim_s=3)
    print_times("tunnel back -> first request sent to it", back_s, unit="s", aim_s=10)
    print_times("requests meanwhile", [took for _, took, _ in during], baseline_s=alone_s)
    print_value(f"requests that failed, of {len(during)}", len(failed), at_most=0)
    for word in sorted(set(failed)):
        print_value(f"  {word}", failed.count(word))


def _last_request_after(lab: Lab, exit_: ExitAgent, kill: Callable[[], None]) -> float:
    """Kill an exit, and return the seconds until the gateway's last request to it, before five seconds without any."""
    count, last_s = _requests(lab, exit_), time.monotonic()
    kill()
    died_s = time.monotonic()
    last_s = died_s
    while time.monotonic() - last_s < 5:
        now = _requests(lab, exit_)
        if now != count:
            count, last_s = now, time.monotonic()
        time.sleep(_LOOK_S)
    return last_s - died_s


def _requests(lab: Lab, exit_: ExitAgent) -> int:
    """Read the number of requests that the gateway has sent to an exit, with failed attempts."""
    key = f"::{exit_.site.address}:{exit_.site.port}::rq_total::"
    return sum(
        int(line.rpartition("::")[2]) for line in lab.gateway.query_admin("/clusters").splitlines() if key in line
    )


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _WITHIN_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the condition did not hold within {_WITHIN_S:g} s")
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
                _wait_until(lambda: sum(each.ended_s is not None for each in tunnels) >= through)  # noqa: B023
                cut_s.append(max(each.ended_s for each in tunnels if each.ended_s is not None) - begun_s)
                time.sleep(2)
                kept += sum(each.ended_s is None for each in tunnels) - (options.tunnels - through)
            finally:
                ip_batch(leaking.namespace, f"route replace default dev {tunnel_interface}")
    print_times("leak -> cut of its last open tunnel", cut_s, unit="s", aim_s=3)
    print_value("tunnels of the other exit that were cut too", -kept, at_most=0)


class _Tunnel:
    """A CONNECT through the gateway with a slow download in it, and the time of its end."""

    def __init__(self, lab: Lab) -> None:
        host, _, port = lab.gateway_address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        target = f"{lab.plan.page_address}:{lab.plan.page_port}"
        proxy_headers = "".join(
            f"{name}: {value}\r\n" for name, value in http_client.user_headers("demo-country-us").items()
        )
        self._socket.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{proxy_headers}\r\n".encode())
        if b" 200 " not in self._socket.recv(4096):
            raise ConnectionError("the gateway refused a tunnel")
        path = f"/bytes?n={_LONG_BYTES}&bps={_RATE_BPS}"
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
