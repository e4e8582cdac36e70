"""TCP connections of this network namespace, listed and closed by ss(8)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any, Final

import structlog

log = structlog.get_logger()

_SS_WITHIN_S: Final = 5.0
_PID: Final = re.compile(r"pid=(\d+)")


async def ss(*arguments: str) -> str:
    """Run `ss` on established TCP connections and return its output, empty if `ss` is missing or takes too long."""
    command: tuple[Any, ...] = ("ss", "-H", "-t", "-n", "state", "established", *arguments)
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        log.error("ss.missing", reason=str(error), hint="install iproute2")  # noqa: TRY400  # the reason says all
        return ""
    try:
        async with asyncio.timeout(_SS_WITHIN_S):
            stdout, _ = await process.communicate()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return stdout.decode(errors="replace")


def find_of_process(listing: str, pid: int) -> Iterator[tuple[str, str, str]]:
    """Yield local and peer address of each connection of a process, and its whole line, from `ss -tnipO state established`."""
    for line in listing.splitlines():
        columns = line.split()
        if len(columns) > 4 and str(pid) in _PID.findall(line):
            yield columns[2], columns[3], line


async def reset(local: str, peer: str) -> None:
    """Reset a connection. Without `CAP_NET_ADMIN` it has no effect."""
    await ss("-K", "src", local, "dst", peer)
