"""The TCP connections of this network namespace, as `ss` lists and ends them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

log = structlog.get_logger()

_SS_WITHIN_S: Final = 5.0


async def ss(*arguments: str) -> str:
    """What `ss` lists of established connections; nothing where there is no `ss`, or it takes too long."""
    command: tuple[Any, ...] = ("ss", "-H", "-t", "-n", "state", "established", *arguments)
    try:
        done = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        log.error("ss.missing", reason=str(error), hint="install iproute2")  # noqa: TRY400 - one line says it
        return ""
    try:
        async with asyncio.timeout(_SS_WITHIN_S):
            stdout, _ = await done.communicate()
    except TimeoutError:
        return ""
    finally:
        if done.returncode is None:
            done.kill()
            await done.wait()
    return stdout.decode(errors="replace")
