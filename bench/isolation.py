"""What one client's requests cost it while others of its exit ask for much and read nothing.

Gateway and exit are real Envoys that a real control plane configures. The bystander asks for a short page at an even rate, in an
open loop; beside it clients ask for a large body, half of them through CONNECT, and never read. Both are measured in turns, in one
run: idle, loaded, idle, loaded. Each turn begins once nothing more moves, neither towards those who do not read nor after them.
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
from bench.report import figure, heading, quantile, spread
from demo import http_client
from demo.agents import AgentProcess
from demo.lab import Lab, LabSettings
from demo.setup import open_lab

COUNTRY: Final = "gb"
BODY_BYTES: Final = 500_000_000
"""Of each body that nobody reads: far more than all buffers on its way."""
_WITHIN_S: Final = 60.0
_LOOK_S: Final = 0.25
_STILL_LOOKS: Final = 8
_STILL_BYTES: Final = 65_536
"""What heartbeats and health checks move between two looks is less."""
_RECEIVED: Final = "upstream_cx_rx_bytes_total"
_CONNECTIONS: Final = "upstream_cx_active"
_OPEN: Final = "upstream_rq_active"


@dataclass(frozen=True, slots=True)
class Turn:
    """Delays of requests that were answered with 200, and what was resident at its end."""

    delays_s: Sequence[float]
    failed: Counter[str]
    gateway_mb: float
    exit_mb: float
    connections: int
    """From the gateway to the exit."""

    @property
    def p99_s(self) -> float:
        return quantile(self.delays_s, 99)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench bystander", description=__doc__)
    parser.add_argument("--clients", type=int, default=100, help="that do not read")
    parser.add_argument("--rate", type=float, default=50, help="of the bystander's requests, in a second")
    parser.add_argument("--seconds", type=float, default=10, help="of each turn")
    parser.add_argument("--turns", type=int, default=6, help="of each kind")
    parser.add_argument("--tunnels", action="store_true", help="with a real tunnel (root, network namespaces)")
    return parser.parse_args(given)


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"bystander: {options.rate:g} requests/s beside {options.clients} clients that do not read")
    ports = {"gateway_port": 0, "api_port": 0, "xds_port": 0}
    with open_lab(LabSettings(exits=(COUNTRY,), tunnels=options.tunnels, **ports)) as lab:
        lab.start()
        idle: list[Turn] = []
        loaded: list[Turn] = []
        _ask(lab, options, seconds=2)  # what is made at first sight is made
        for _ in range(options.turns):
            _until_still(lab.gateway)  # what the others left behind is cleared away
            idle.append(_ask(lab, options))
            with _not_reading(lab, options.clients):
                loaded.append(_ask(lab, options))
    _report(idle, loaded)


def _report(idle: Sequence[Turn], loaded: Sequence[Turn]) -> None:
    before, beside = ([delay for turn in turns for delay in turn.delays_s] for turns in (idle, loaded))
    spread("requests, nobody else there", before)
    spread("requests beside those who do not read", beside, baseline_s=before)
    alone_s, loaded_s = ([turn.p99_s for turn in turns] for turns in (idle, loaded))
    spread("p99 of each turn, nobody else there", alone_s)
    spread("p99 of each turn beside them", loaded_s)
    figure("p99 beside them to p99 idle: median turns", quantile(loaded_s, 50) / quantile(alone_s, 50), "x", below=2)
    figure("p99 beside them to p99 idle: calmest turns", min(loaded_s) / min(alone_s), "x", below=2)
    figure("p99 beside them to p99 idle: one turn, most", max(map(truediv, loaded_s, alone_s)), "x")
    failed = sum((turn.failed for turn in (*idle, *loaded)), Counter[str]())
    figure("requests that failed", failed.total(), at_most=0)
    for word, times in sorted(failed.items()):
        figure(f"  {word}", times)
    for kind, turns in (("before anybody", idle[:1]), ("beside them", loaded), ("between", idle[1:] or idle)):
        figure(f"connections to the exit, {kind}", quantile([turn.connections for turn in turns], 50))
        figure(f"gateway's Envoy: resident, {kind}", quantile([turn.gateway_mb for turn in turns], 50), "MB")
        figure(f"exit's Envoy: resident, {kind}", quantile([turn.exit_mb for turn in turns], 50), "MB")


def _ask(lab: Lab, options: argparse.Namespace, seconds: float | None = None) -> Turn:
    """The bystander's requests, from a process of its own, one turn long."""
    path = lab.state_dir / "requests"
    pack([_head("GET", f"{lab.page_url}/", lab.page_address)], path)
    port = lab.gateway_address.rpartition(":")[2]
    command = (sys.executable, "-m", "bench.http_load", port, str(options.rate), str(seconds or options.seconds))
    done = subprocess.run((*command, str(path)), capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    failed = Counter({word: times for word, times in told["statuses"].items() if word != "200"})
    resident = [Process(agent.envoy_pid).resident_mb for agent in (lab.gateway, lab.exits[0])]
    return Turn(told["delays_s"], failed, *resident, _counter(lab.gateway, _CONNECTIONS))


@contextmanager
def _not_reading(lab: Lab, clients: int) -> Iterator[None]:
    """Clients that asked and do not read, while the block lasts; it begins when nothing more comes for them."""
    with ExitStack() as stack:
        for number in range(clients):
            stack.enter_context(closing(_begin(lab, tunnel=number % 2 == 0)))
        _until_still(lab.gateway)
        yield
    deadline_s = time.monotonic() + _WITHIN_S
    while _counter(lab.gateway, _OPEN) > 0:
        if time.monotonic() > deadline_s:
            raise TimeoutError("the gateway does not end what nobody reads")
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
    wish = "".join(
        f"{name}: {value}\r\n" for name, value in http_client.user_headers(f"demo-country-{COUNTRY}").items()
    )
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{wish}\r\n".encode()


def _until_still(gateway: AgentProcess) -> None:
    deadline_s, received, still = time.monotonic() + _WITHIN_S, -1, 0
    while still < _STILL_LOOKS:
        if time.monotonic() > deadline_s:
            raise TimeoutError("what nobody reads does not come to rest")
        time.sleep(_LOOK_S)
        now = _counter(gateway, _RECEIVED)
        still = still + 1 if now - received < _STILL_BYTES else 0
        received = now


def _counter(gateway: AgentProcess, name: str) -> int:
    """What a gateway's Envoy counts of its pool, the one that it has."""
    told = gateway.query_admin(f"/stats?filter=^cluster.pool/.*{name}$")
    return sum(int(line.rpartition(":")[2]) for line in told.split("\n") if ":" in line)
