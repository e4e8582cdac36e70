"""`python -m bench NAME… [options]`: run benchmarks, all or by name, and print their figures.

Options are given to each benchmark that is named; `python -m bench NAME --help` says which it takes.
"""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import takewhile

BENCHMARKS = (
    *("convergence", "fleet", "hold", "coalescing", "cost", "restart", "large", "cold", "hostile"),
    *("reads", "heartbeats", "trust", "bystander", "agent", "startup"),
)


def main() -> None:
    given = sys.argv[1:]
    names = [*takewhile(lambda word: not word.startswith("-"), given)]
    options = given[len(names) :]
    for name in names or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"there is no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
        import_module(f"bench.{name}").main(options)


main()
