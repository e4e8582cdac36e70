"""Short commands such as `ip`, `wg` and `nft`."""

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
    """A command is missing, ended with an error, or took too long."""

    code = "command_failed"


async def run(*argv: str, text: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """Run a command with `text` as its input, and return its output. Raises CommandFailed, which does not show `text`."""
    stdin = filled_pipe(text)
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=stdin, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        raise CommandFailed(f"`{argv[0]}` cannot be run ({error.strerror})", hint=f"install {argv[0]}") from error
    finally:
        os.close(stdin)
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise CommandFailed(f"`{' '.join(argv)}` did not end within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        reason = " ".join(errors.decode(errors="replace").split())[:_SHOWN_CHARS]
        raise CommandFailed(f"`{' '.join(argv)}` failed: {reason or f'status {process.returncode}'}")
    return output.decode(errors="replace")


def filled_pipe(text: str) -> int:
    """Return the readable end of a pipe that holds `text` and ends after it.

    Programs open /dev/stdin by its path, which works with a pipe and not with a socket.
    """
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
