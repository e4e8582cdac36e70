"""Tunnels through a gateway's and an exit's real Envoy as the product configures them, against HTTP/2 between the two (root).

Gateway and exit are in network namespaces, with a link whose round trip can be chosen. Both variants run side by side, and their
turns alternate, so that other work on the machine meets both. Parts:

open       tunnels opened a second by clients that open and close one after another, the processor time of both Envoys for
           each, and the time to open at an even rate, with tunnels that stay open for a while
echo       round trips of a short message in an open tunnel, also without any proxy
bulk       bytes a second with one and with many tunnels
memory     resident memory of both Envoys with many open tunnels, in newly started Envoys
isolation  bytes a second of one client alone, and beside others that request bytes without end and read none
strangers  tunnels opened at an even rate alone, and beside strangers who hold connections to the exit's port and open new ones
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from bench.hop_envoys import COUNTRY, HopPair, Variant, as_translated, open_pair, speak_http2
from bench.hop_network import TARGET, HopNetwork, open_network, program
from bench.report import print_amounts, print_heading, print_times, print_value, quantile
from bench.stranger_clients import IDLE, stranger_clients
from demo.errors import LabError
from demo.processes import ProcessGroup, StopStage, interruptible

PRODUCT, BASELINE = "product", "HTTP/2"
VARIANTS: Final[Mapping[str, Variant]] = {PRODUCT: as_translated, BASELINE: speak_http2}
_TARGET: Final = (TARGET, 7000)
_TIMEOUT_S: Final = 300.0
_ECHO_BYTES: Final = 64


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench tunnels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="run this part alone; may be repeated")
    parser.add_argument("--turns", type=int, default=3, help="turns of each variant")
    parser.add_argument("--round-trips", type=float, nargs="+", default=[0, 30], metavar="MS", help="of the part open")
    parser.add_argument("--tunnels", type=int, default=1_000, help="opened in a turn of the part open")
    parser.add_argument("--clients", type=int, default=50, help="that open them, and tunnels of the part bulk")
    parser.add_argument("--rate", type=float, default=50, help="tunnels a second when the time to open is measured")
    parser.add_argument("--lifetime", type=float, default=1, help="seconds that each of these stays open")
    parser.add_argument("--messages", type=int, default=2_000, help="round trips in a turn of the part echo")
    parser.add_argument("--seconds", type=float, default=3, help="of each turn of the parts bulk and isolation")
    parser.add_argument("--open", type=int, nargs="+", default=[1_000, 5_000], help="tunnels of the part memory")
    parser.add_argument("--readers", type=int, default=20, help="clients of the part isolation that do not read")
    parser.add_argument("--idle", type=int, default=19_000, help="connections of the part strangers")
    parser.add_argument("--new", type=int, default=1_000, help="new ones a second of the part strangers")
    parser.add_argument("--beside", type=float, default=60, help="seconds of the part strangers")
    parser.add_argument("--workers", type=int, default=1, help="of each Envoy")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the children inherit it
    try:
        with interruptible():
            for name in options.part or PARTS:
                PARTS[name](options)
    except KeyboardInterrupt:
        sys.exit(130)


@dataclass
class TunnelScene:
    """A network with a target, and the pair of Envoys of each variant."""

    network: HopNetwork
    processes: ProcessGroup
    pairs: Mapping[str, HopPair]
    _numbers: Iterator[int] = field(default_factory=count)

    def alternate(self, turns: int) -> Iterator[tuple[str, HopPair]]:
        """Yield each pair in each turn; the one that was last is first in the next turn."""
        for turn in range(turns):
            yield from [*self.pairs.items()][:: -1 if turn % 2 else 1]

    def run(self, command: str, pair: HopPair | None, **more: object) -> dict[str, Any]:
        """Run a command of `bench/tunnel_clients.py`, without the proxies if there is no pair, and return its result."""
        argv = _clients(command, pair, more)
        printed = self.processes.run(argv, namespace=self.network.gateway, timeout_s=_TIMEOUT_S)
        result: dict[str, Any] = json.loads(printed)
        return result

    @contextmanager
    def hold(self, pair: HopPair, **more: object) -> Iterator[None]:
        """Keep tunnels open while the block lasts, which begins when all are."""
        name, argv = f"hold-{next(self._numbers)}", _clients("hold", pair, more)
        held = self.processes.start(name, StopStage.AGENT, argv, namespace=self.network.gateway)
        deadline_s = time.monotonic() + _TIMEOUT_S
        try:
            while not held.log.read_bytes().startswith(b"{"):  # its result
                held.check()
                if time.monotonic() > deadline_s:
                    raise LabError(f"the tunnels are not open after {_TIMEOUT_S:g} s")
                time.sleep(0.02)
            yield
        finally:
            self.processes.end([held])

    @contextmanager
    def strangers(self, pair: HopPair, options: argparse.Namespace) -> Iterator[None]:
        """Run strangers at the exit's port while the block lasts, which begins when their idle connections are open."""
        command = stranger_clients([[pair.exit_address, IDLE]], options.idle, options.new, 1)
        argv = ("ip", "netns", "exec", self.network.gateway, *command)
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield
            opened, _ = process.communicate("", timeout=_TIMEOUT_S)
        print_value("connections that strangers opened", float(opened), "")


def _clients(command: str, pair: HopPair | None, more: Mapping[str, object]) -> tuple[str, ...]:
    proxy = {"proxy": pair.address} if pair else {}
    return program("tunnel_clients", command, json.dumps({"target": _TARGET, "country": COUNTRY, **proxy, **more}))


@contextmanager
def open_scene(options: argparse.Namespace, *variants: str, round_trip_ms: float = 0) -> Iterator[TunnelScene]:
    with open_network(round_trip_ms) as network, ExitStack() as stack:
        processes = ProcessGroup(network.mark, network.folder)
        stack.callback(processes.end_all)
        processes.start("target", StopStage.PAGE, program("tunnel_targets", *map(str, _TARGET)), namespace=network.exit)
        pairs = {
            name: stack.enter_context(open_pair(network, VARIANTS[name], number=number, workers=options.workers))
            for number, name in enumerate(variants or VARIANTS)
        }
        yield TunnelScene(network, processes, pairs)


# -- open --------------------------------------------------------------------------------------------------------------


@dataclass
class Openings:
    """The tunnels that one variant opened, by turn."""

    per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """The processor time of both Envoys for each tunnel."""
    took_s: list[float] = field(default_factory=list)
    """The time until each tunnel was open, when they were opened at an even rate."""
    failures: Counter[str] = field(default_factory=Counter)


def measure_open(options: argparse.Namespace) -> None:
    for round_trip_ms in options.round_trips:
        print_heading(f"tunnels: opening with a round trip of {round_trip_ms:g} ms between gateway and exit")
        openings = {name: Openings() for name in VARIANTS}
        with open_scene(options, round_trip_ms=round_trip_ms) as scene:
            for pair in scene.pairs.values():
                scene.run("open", pair, tunnels=options.clients, clients=options.clients)  # warms up
            for name, pair in scene.alternate(options.turns):
                _open_turn(scene, pair, options, openings[name])
        _report_openings(openings, options)


def _open_turn(scene: TunnelScene, pair: HopPair, options: argparse.Namespace, openings: Openings) -> None:
    before_s = pair.cpu_s
    closed_loop = scene.run("open", pair, tunnels=options.tunnels, clients=options.clients)
    opened = len(closed_loop["took_s"])
    if not opened:
        raise LabError(f"no tunnel was opened: {closed_loop['failures']}")
    openings.cpu_ms.append((pair.cpu_s - before_s) / opened * 1000)
    openings.per_s.append(opened / closed_loop["elapsed_s"])
    open_loop = scene.run(
        "open",
        pair,
        tunnels=int(options.rate * options.seconds),
        rate=options.rate,
        lifetime_s=options.lifetime,
    )
    openings.took_s += open_loop["took_s"]
    openings.failures.update(closed_loop["failures"])
    openings.failures.update(open_loop["failures"])


def _report_openings(openings: Mapping[str, Openings], options: argparse.Namespace) -> None:
    base = openings[BASELINE]
    for name, each in openings.items():
        compared = name != BASELINE
        print_amounts(
            f"{name}: opened by {options.clients} clients",
            each.per_s,
            "/s",
            baseline=quantile(base.per_s, 50) if compared else None,
        )
        print_amounts(
            f"{name}: Envoys' CPU for a tunnel",
            each.cpu_ms,
            "ms",
            baseline=quantile(base.cpu_ms, 50) if compared else None,
        )
        print_times(
            f"{name}: time to open at {options.rate:g}/s", each.took_s, baseline_s=base.took_s if compared else None
        )
        print_value(f"{name}: not opened", each.failures.total(), at_most=0)
        for text, times in sorted(each.failures.items()):
            print_value(f"  {text}", times)


# -- open tunnels ------------------------------------------------------------------------------------------------------


def measure_echo(options: argparse.Namespace) -> None:
    print_heading(f"tunnels: round trips of {_ECHO_BYTES} bytes in one tunnel")
    took_s: dict[str, list[float]] = {name: [] for name in ("no proxy", *VARIANTS)}
    sizes = {"rounds": options.messages, "size_bytes": _ECHO_BYTES}
    with open_scene(options) as scene:
        for name, pair in scene.alternate(options.turns):
            took_s[name] += scene.run("echo", pair, **sizes)["took_s"]
            took_s["no proxy"] += scene.run("echo", None, **sizes)["took_s"]
    for name, values_s in took_s.items():
        print_times(name, values_s, unit="us", baseline_s=took_s[BASELINE] if name == PRODUCT else None)


def measure_bulk(options: argparse.Namespace) -> None:
    print_heading(f"tunnels: downloads for {options.seconds:g} s")
    with open_scene(options) as scene:
        for tunnels in (1, options.clients):
            rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
            for name, pair in scene.alternate(options.turns):
                rates[name].append(scene.run("download", pair, tunnels=tunnels, seconds=options.seconds)["mb_per_s"])
            _report_rates(f"{tunnels} at once", rates)


def _report_rates(text: str, rates: Mapping[str, Sequence[float]]) -> None:
    for name, values in rates.items():
        baseline = None if name == BASELINE else quantile(rates[BASELINE], 50)
        print_amounts(f"{name}: {text}", values, "MB/s", baseline=baseline)


def measure_memory(options: argparse.Namespace) -> None:
    print_heading(f"tunnels: memory with {', '.join(map(str, options.open))} open tunnels")
    for name in VARIANTS:
        with open_scene(options, name) as scene:
            (pair,) = scene.pairs.values()
            before = _resident_mb(pair)
            _report_memory(f"{name}: none", before)
            with ExitStack() as held:
                tunnels = 0
                for aimed in sorted(options.open):
                    held.enter_context(scene.hold(pair, tunnels=aimed - tunnels))
                    tunnels = aimed
                    now = _resident_mb(pair)
                    _report_memory(f"{name}: {tunnels:,}", now)
                    print_value(f"{name}: {tunnels:,}, connections between them", pair.connections)
                    for envoy in now:
                        kb = (now[envoy] - before[envoy]) * 1024 / tunnels
                        print_value(f"  {envoy}'s, for each tunnel", kb, "kB")


def _resident_mb(pair: HopPair) -> dict[str, float]:
    return {"gateway": pair.gateway.process.resident_mb, "exit": pair.exit.process.resident_mb}


def _report_memory(text: str, resident_mb: Mapping[str, float]) -> None:
    for envoy, value in resident_mb.items():
        print_value(f"{text}, {envoy}'s Envoy", value, "MB")


def measure_isolation(options: argparse.Namespace) -> None:
    print_heading(f"tunnels: one download for {options.seconds:g} s beside {options.readers} clients that do not read")
    alone: dict[str, list[float]] = {name: [] for name in VARIANTS}
    beside: dict[str, list[float]] = {name: [] for name in VARIANTS}
    one = {"tunnels": 1, "seconds": options.seconds}
    with open_scene(options) as scene:
        for name, pair in scene.alternate(options.turns):
            alone[name].append(scene.run("download", pair, **one)["mb_per_s"])
            with scene.hold(pair, tunnels=options.readers, unread=True):
                beside[name].append(scene.run("download", pair, **one)["mb_per_s"])
    _report_rates("alone", alone)
    _report_rates("beside them", beside)
    for name in VARIANTS:
        print_value(f"{name}: beside to alone, medians", quantile(beside[name], 50) / quantile(alone[name], 50), "x")


def measure_strangers(options: argparse.Namespace) -> None:
    print_heading(
        f"tunnels: opened for {options.beside:g} s beside {options.idle:,} connections of strangers to the exit, {options.new:,} new a second"
    )
    with open_scene(options, PRODUCT) as scene:
        (pair,) = scene.pairs.values()
        alone = _open_for(scene, pair, options, options.beside / 4)
        failed_checks = pair.failed_checks
        with scene.strangers(pair, options):
            beside = _open_for(scene, pair, options, options.beside)
            print_value("connections that the exit holds at the end", pair.connections_to_exit)
        print_value("failed health checks", pair.failed_checks - failed_checks, at_most=0)
    print_value("not opened beside them", Counter(beside["failures"]).total(), at_most=0)
    print_times(f"time to open at {options.rate:g}/s", beside["took_s"], baseline_s=alone["took_s"])
    print_times("baseline: alone", alone["took_s"])


def _open_for(scene: TunnelScene, pair: HopPair, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    tunnels = int(options.rate * seconds)
    return scene.run("open", pair, tunnels=tunnels, rate=options.rate, lifetime_s=options.lifetime)


PARTS: Final[Mapping[str, Callable[[argparse.Namespace], None]]] = {
    "open": measure_open,
    "echo": measure_echo,
    "bulk": measure_bulk,
    "memory": measure_memory,
    "isolation": measure_isolation,
    "strangers": measure_strangers,
}
