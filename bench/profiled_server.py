"""A control plane with a profiler: `python -m bench.profiled_server FILE`.

The main thread is profiled from one SIGUSR1 to the next, into FILE. The runs and seconds of the garbage collector, which a
profile attributes to arbitrary functions, are written to FILE.gc for each generation.
"""

from __future__ import annotations

import cProfile
import gc
import json
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from cli.serve import serve


class GcTimes:
    """The runs and seconds of the garbage collector, by generation."""

    def __init__(self) -> None:
        self.taken: dict[int, list[float]] = defaultdict(lambda: [0, 0.0])
        self._began = 0.0

    def note(self, phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        counted = self.taken[about["generation"]]
        counted[0] += 1
        counted[1] += time.perf_counter() - self._began


class Toggle:
    """A signal handler that starts the profiler, and the next time stops it and writes its results."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._profile = cProfile.Profile()
        self._collections: GcTimes | None = None

    def __call__(self, *_: Any) -> None:
        if self._collections is None:
            self._collections = GcTimes()
            gc.callbacks.append(self._collections.note)
            self._profile.enable()
            return
        self._profile.disable()
        gc.callbacks.remove(self._collections.note)
        self._profile.dump_stats(self._path)
        self._path.with_name(f"{self._path.name}.gc").write_text(json.dumps(self._collections.taken))
        self._collections = None


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, Toggle(Path(sys.argv[1])))
    serve()
