"""Delays of one client's requests while other clients of its exit request much and read nothing.

Gateway and exit are real Envoys that a real control plane configures. The measured client requests a short page at an even
rate, in an open loop. The other clients request a large body, half of them through CONNECT, and never read. Turns without and
with them alternate in one run; each begins when no more bytes are moving.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from operator import truediv
from typing import Final

from bench.http_load import pack
from bench.process import Process
from bench.report import print_heading, print_times, print_value, quantile
from demo import http_client
from demo.agents import AgentProcess
from demo.lab import Lab, LabSettings
from demo.setup import open_lab

COUNTRY: Final = "gb"
BODY_BYTES: Final = 500_000_000
"""The size of each unread body, far more than all buffers on its way."""
_WITHIN_S: Final = 60.0
_LOOK_S: Final = 0.25
_STILL_LOOKS: Final = 8
_STILL_BYTES: Final = 65_536
"""Heartbeats and health checks transfer less between two samples."""
_RECEIVED: Final = "upstream_cx_rx_bytes_total"
_CONNECTIONS: Final = "upstream_cx_active"
_OPEN: Final = "upstream_rq_active"


@dataclass(frozen=True, slots=True)
class Turn:
    """The delays of successful requests in a turn, and the resident memory at its end."""

    delays_s: Sequence[float]
    failed: Counter[str]
    gateway_mb: float
    exit_mb: float
    connections: int
    """Connections from the gateway to the exit."""

    @property
    def p99_s(self) -> float:
        return quantile(self.delays_s, 99)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench isolation", description=__doc__)
    parser.add_argument("--clients", type=int, default=100, help="clients that do not read")
    parser.add_argument("--rate", type=float, default=50, help="requests of the measured client, per second")
    parser.add_argument("--seconds", type=float, default=10, help="duration of each turn")
    parser.add_argument("--turns", type=int, default=6, help="turns of each kind")
    parser.add_argument("--tunnels", action="store_true", help="use a real tunnel (root, network namespaces)")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(f"isolation: {options.rate:g} requests/s with {options.clients} clients that do not read")
    settings = LabSettings(exits=(COUNTRY,), tunnels=options.tunnels, gateway_port=0, api_port=0, xds_port=0)
    with open_lab(settings) as lab:
        lab.start()
        idle: list[Turn] = []
        loaded: list[Turn] = []
        _send_requests(lab, options, seconds=2)  # warms up caches and connections
        for _ in range(options.turns):
            _wait_until_idle(lab.gateway)  # until the remains of the other clients are closed
            idle.append(_send_requests(lab, options))
            with _open_slow_readers(lab, options.clients):
                loaded.append(_send_requests(lab, options))
    _report(idle, loaded)


def _report(idle: Sequence[Turn], loaded: Sequence[Turn]) -> None:
    before, with_others = ([delay for turn in turns for delay in turn.delays_s] for turns in (idle, loaded))
    print_times("requests without others", before)
    print_times("requests with others", with_others, baseline_s=before)
    alone_s, loaded_s = ([turn.p99_s for turn in turns] for turns in (idle, loaded))
    print_times("p99 of each turn without others", alone_s)
    print_times("p99 of each turn with others", loaded_s)
    print_value(
        "p99 with others to p99 without: median turns", quantile(loaded_s, 50) / quantile(alone_s, 50), "x", below=2
    )
    print_value("p99 with others to p99 without: calmest turns", min(loaded_s) / min(alone_s), "x", below=2)
    print_value("p99 with others to p99 without: one turn, most", max(map(truediv, loaded_s, alone_s)), "x")
    failed = sum((turn.failed for turn in (*idle, *loaded)), Counter[str]())
    print_value("requests that failed", failed.total(), at_most=0)
    for word, times in sorted(failed.items()):
        print_value(f"  {word}", times)
    for kind, turns in (("at first", idle[:1]), ("with others", loaded), ("between", idle[1:] or idle)):
        print_value(f"connections to the exit, {kind}", quantile([turn.connections for turn in turns], 50))
        print_value(f"gateway's Envoy: resident, {kind}", quantile([turn.gateway_mb for turn in turns], 50), "MB")
        print_value(f"exit's Envoy: resident, {kind}", quantile([turn.exit_mb for turn in turns], 50), "MB")


def _send_requests(lab: Lab, options: argparse.Namespace, seconds: float | None = None) -> Turn:
    """Send the measured client's requests for one turn, from a process of its own."""
    path = lab.state_dir / "requests"
    pack([_head("GET", f"{lab.page_url}/", lab.page_address)], path)
    port = lab.gateway_address.rpartition(":")[2]
    command = (sys.executable, "-m", "bench.http_load", port, str(options.rate), str(seconds or options.seconds))
    done = subprocess.run((*command, str(path)), capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    failed = Counter({word: times for word, times in result["statuses"].items() if word != "200"})
    gateway_mb, exit_mb = (Process(agent.envoy_pid).resident_mb for agent in (lab.gateway, lab.exits[0]))
    return Turn(result["delays_s"], failed, gateway_mb, exit_mb, _counter(lab.gateway, _CONNECTIONS))


@contextmanager
def _open_slow_readers(lab: Lab, clients: int) -> Iterator[None]:
    """Open clients that do not read while the block lasts, which begins when no more bytes arrive for them."""
    with ExitStack() as stack:
        for number in range(clients):
            stack.enter_context(closing(_begin(lab, tunnel=number % 2 == 0)))
        _wait_until_idle(lab.gateway)
        yield
    deadline_s = time.monotonic() + _WITHIN_S
    while _counter(lab.gateway, _OPEN) > 0:
        if time.monotonic() > deadline_s:
            raise TimeoutError("the gateway does not close unread requests")
        time.sleep(_LOOK_S)


def _begin(lab: Lab, *, tunnel: bool) -> socket.socket:
    host, _, port = lab.gateway_address.rpartition(":")
    asking = socket.create_connection((host, int(port)), timeout=10)
    page, path = lab.page_address, f"/bytes?n={BODY_BYTES}"
    if not tunnel:
        asking.sendall(_head("GET", f"http://{page}{path}", page))
        return asking
    asking.sendall(_head("CONNECT", page, page))
    if b" 200 " not in asking.recv(4096):
        raise ConnectionError("the gateway refused a tunnel")
    asking.sendall(f"GET {path} HTTP/1.1\r\nHost: {page}\r\n\r\n".encode())
    return asking


def _head(method: str, target: str, host: str) -> bytes:
    proxy_headers = "".join(
        f"{name}: {value}\r\n" for name, value in http_client.user_headers(f"demo-country-{COUNTRY}").items()
    )
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{proxy_headers}\r\n".encode()


def _wait_until_idle(gateway: AgentProcess) -> None:
    deadline_s, received, still = time.monotonic() + _WITHIN_S, -1, 0
    while still < _STILL_LOOKS:
        if time.monotonic() > deadline_s:
            raise TimeoutError("the gateway still receives bytes that no client reads")
        time.sleep(_LOOK_S)
        now = _counter(gateway, _RECEIVED)
        still = still + 1 if now - received < _STILL_BYTES else 0
        received = now


def _counter(gateway: AgentProcess, name: str) -> int:
    """Read a counter of the gateway's only pool from its Envoy."""
    text = gateway.query_admin(f"/stats?filter=^cluster.pool/.*{name}$")
    return sum(int(line.rpartition(":")[2]) for line in text.split("\n") if ":" in line)
