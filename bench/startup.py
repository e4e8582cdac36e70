"""How much processor time a command takes, its imports and a request to a running API included.

Processor time is that of the whole process, user and system, so other work on the machine changes it little; Python's own start is the
baseline. Bytecode is compiled by a first run of each command, which does not count (unset PYTHONDONTWRITEBYTECODE).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from bench.control_plane import make_admin
from bench.report import heading, spread_of
from bench.testbed import open_bed, run

AIM_MS: Final = 350
EXIT: Final = "exit-1"
COMMANDS: Final = (
    ("--help",),
    ("status", "--help"),
    ("status",),
    ("status", "--json"),
    ("get", "exits"),
    ("get", "pools", "--json"),
    ("whoami",),
    ("get", "proxies", "--yaml"),
    ("explain", "https://example.com/"),
    ("containers", "list"),
    ("disable", EXIT),
    ("history", EXIT),
    ("export",),
    ("serve", "--help"),
)
COMPLETION: Final = {"_EXITPLANE_COMPLETE": "complete_bash", "COMP_WORDS": "exitplane st", "COMP_CWORD": "1"}


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each command")
    return parser.parse_args(given)


async def measure(options: argparse.Namespace) -> None:
    async with open_bed() as bed:
        await bed.declare(pools=2, exits=3, gateways=1)
        key = await make_admin(bed.database)
        async with bed.serve() as replica:
            given = {
                "EXITPLANE_API": f"http://127.0.0.1:{replica.api_port}",
                "EXITPLANE_API_KEY": key,
                "COLUMNS": "120",
            }
            baseline = await times_ms(options.runs, ("-c", "pass"), given)
            spread_of("python -c pass", baseline, "ms")
            least = min(baseline)
            for command in COMMANDS:
                taken = await times_ms(options.runs, ("-m", "cli", *command), given)
                spread_of(f"exitplane {' '.join(command)}", taken, "ms", below=AIM_MS, baseline=least)
            taken = await times_ms(options.runs, ("-m", "cli"), given | COMPLETION)
            spread_of("completion of a command's name", taken, "ms", below=AIM_MS, baseline=least)


async def times_ms(runs: int, arguments: Sequence[str], settings: Mapping[str, str]) -> list[float]:
    """The processor time of each of so many runs, after one that does not count."""
    return [await asyncio.to_thread(_time_ms, arguments, settings) for _ in range(runs + 1)][1:]


def _time_ms(arguments: Sequence[str], settings: Mapping[str, str]) -> float:
    silent = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1)]
    # not by asyncio: only wait4 tells what one process took
    process = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ | settings, file_actions=silent)
    _, status, used = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return (used.ru_utime + used.ru_stime) * 1000


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    heading(f"startup: processor time of commands, {options.runs} runs each")
    run(lambda: measure(options))
