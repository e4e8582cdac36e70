"""What an agent's start has brought into its memory and nothing uses any more is given back.

A shared library is a mapping of its file, and the kernel maps around each page that is touched: most of what counts as resident of
libgrpc and of cryptography is code that only their start ran. Given back, it leaves this process, not the kernel's cache, and what
is used again is mapped again at its next use.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger()

SETTLED_S: Final = 10.0
"""After this long a start is over."""
EVERY_S: Final = 600.0
"""What is done seldom (a renewed connection, an outage of the control plane) maps code too."""
_MADV_DONTNEED: Final = 4
_HEAD: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ +(/.*)")
_UNWRITABLE: Final = frozenset({"r-xp", "r--p"})


async def give_back() -> None:
    """Once the start is over, and every now and then, until cancelled."""
    await asyncio.sleep(SETTLED_S)
    while True:
        release_code()
        await asyncio.sleep(EVERY_S)


def release_code(smaps: Path = Path("/proc/self/smaps")) -> int:
    """Unmap the pages of all mappings that are as their files are; says how many mappings these were.

    Where the kernel does not say, or does not do it, nothing happens.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        text = smaps.read_text(errors="replace")
    except OSError as error:
        log.debug("memory.unknown", reason=os.strerror(error.errno or 0))
        return 0
    return sum(libc.madvise(begin, end - begin, _MADV_DONTNEED) == 0 for begin, end in _as_their_files(text))


def _as_their_files(smaps: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each private mapping of a file that cannot be written and has no page of its own.

    One that was relocated has such pages (`Anonymous`), which would be lost.
    """
    begin, end, candidate = 0, 0, False
    for line in smaps.splitlines():
        head = _HEAD.match(line)
        if head is not None:
            begin, end, candidate = int(head[1], 16), int(head[2], 16), head[3] in _UNWRITABLE
        elif candidate and line.startswith("Anonymous:"):
            candidate = False
            if int(line.split()[1]) == 0:
                yield begin, end
