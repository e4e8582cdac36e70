"""Processor time of commands, with their imports and a request to a running API.

It is the processor time of the whole process, user and system, which other work on the machine changes little. The baseline
is Python's own start. A first run of each command, which compiles bytecode, does not count (unset PYTHONDONTWRITEBYTECODE).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from bench.control_plane import create_admin
from bench.report import print_amounts, print_heading
from bench.testbed import open_testbed, run

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


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="runs of each command")
    return parser.parse_args(argv)


async def measure(options: argparse.Namespace) -> None:
    async with open_testbed() as testbed:
        await testbed.declare(pools=2, exits=3, gateways=1)
        key = await create_admin(testbed.database)
        async with testbed.serve() as replica:
            environment = {
                "EXITPLANE_API": f"http://127.0.0.1:{replica.api_port}",
                "EXITPLANE_API_KEY": key,
                "COLUMNS": "120",
            }
            baseline = await times_ms(options.runs, ("-c", "pass"), environment)
            print_amounts("python -c pass", baseline, "ms")
            least = min(baseline)
            for command in COMMANDS:
                taken = await times_ms(options.runs, ("-m", "cli", *command), environment)
                print_amounts(f"exitplane {' '.join(command)}", taken, "ms", below=AIM_MS, baseline=least)
            taken = await times_ms(options.runs, ("-m", "cli"), environment | COMPLETION)
            print_amounts("completion of a command's name", taken, "ms", below=AIM_MS, baseline=least)


async def times_ms(runs: int, arguments: Sequence[str], settings: Mapping[str, str]) -> list[float]:
    """Measure the processor time of several runs, after one that does not count."""
    return [await asyncio.to_thread(_time_ms, arguments, settings) for _ in range(runs + 1)][1:]


def _time_ms(arguments: Sequence[str], settings: Mapping[str, str]) -> float:
    silent = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in (0, 1)]
    # not with asyncio, because only wait4 returns the processor time of one process
    process = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ | settings, file_actions=silent)
    _, status, used = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return (used.ru_utime + used.ru_stime) * 1000


def main(argv: Sequence[str]) -> None:
    options = arguments(argv)
    print_heading(f"startup: processor time of commands, {options.runs} runs each")
    run(lambda: measure(options))
