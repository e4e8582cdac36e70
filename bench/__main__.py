"""`make bench`, or `python -m bench NAME…`: run the benchmarks, all or by name, and print their figures."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = ("convergence",)


def main() -> None:
    names = sys.argv[1:] or BENCHMARKS
    for name in names:
        if name not in BENCHMARKS:
            sys.exit(f"there is no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
        import_module(f"bench.{name}").main()


main()
