"""Running `ip`, `wg` and `nft`, and keeping children that end with the agent."""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import Final

from model.errors import ExitplaneError

TIMEOUT_S: Final = 10.0
_SHOWN_CHARS: Final = 300
_PIPE_BYTES: Final = 262_144


class CommandFailed(ExitplaneError):
    """A command ended with an error, is missing, or took too long."""

    code = "command_failed"


async def run(*argv: str, text: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """What a command writes to its output, given `text` as its input. Raises CommandFailed, which does not show `text`."""
    given = filled_pipe(text)
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=given, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        raise CommandFailed(f"`{argv[0]}` cannot be run ({error.strerror})", hint=f"install {argv[0]}") from error
    finally:
        os.close(given)
    try:
        async with asyncio.timeout(timeout_s):
            output, complaint = await process.communicate()
    except TimeoutError as error:
        raise CommandFailed(f"`{' '.join(argv)}` did not end within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = " ".join(complaint.decode(errors="replace").split())[:_SHOWN_CHARS]
        raise CommandFailed(f"`{' '.join(argv)}` failed: {said or f'status {process.returncode}'}")
    return output.decode(errors="replace")


def filled_pipe(text: str) -> int:
    """The readable end of a pipe that holds `text` and is closed behind it: /dev/stdin can be opened, as a socket's cannot."""
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(writing, False)
        os.write(writing, text.encode())  # a file of a tunnel is smaller than the pipe
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return reading
