"""The command `python -m bench NAME… [options]`, which runs benchmarks, all or by name, and prints their results.

Each named benchmark gets the options; `python -m bench NAME --help` lists them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import takewhile

BENCHMARKS = (
    *("convergence", "fleet", "stream_memory", "coalescing", "cost", "restart", "large_fleet", "cold_start", "hostile"),
    *("reads", "heartbeats", "failover", "isolation", "tunnels", "agent", "startup", "strangers", "telemetry"),
)
"""The names of the benchmarks, which are those of their modules."""


def main() -> None:
    argv = sys.argv[1:]
    names = [*takewhile(lambda word: not word.startswith("-"), argv)]
    options = argv[len(names) :]
    for name in names or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"there is no benchmark {name!r}; name one of {', '.join(BENCHMARKS)}")
        import_module(f"bench.{name}").main(options)


main()
