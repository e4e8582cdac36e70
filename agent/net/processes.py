"""Processes that an agent starts, each held by its pidfd."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.net.commands import filled_pipe

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class RunningProcess:
    """A process and the event of its end. `status` is as Popen.returncode; None for a process that is not the agent's child."""

    def __init__(self, pid: int, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.status: int | None = None
        self.ended = asyncio.Event()
        self._pidfd = pidfd
        self._child = child
        asyncio.get_running_loop().add_reader(pidfd, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._child is not None:
            self.status = self._child.wait()
        self.ended.set()

    async def end(self, timeout_s: float) -> None:
        """Send SIGTERM, and SIGKILL after `timeout_s`. Return when the process is gone."""
        for number, limit_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, None)):
            if self.ended.is_set():
                return
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self.ended.wait()


def start_child(
    command: Sequence[str], folder: Path, log_name: str, text: str = "", environment: Mapping[str, str] | None = None
) -> RunningProcess:
    """Start a program in `folder` that ends with the agent, with its output in the file `log_name`. Raises OSError.

    `text` is its input, so that secrets need no file.
    """
    stdin = filled_pipe(text)
    try:
        with (folder / log_name).open("wb") as log_file:
            child = subprocess.Popen(
                command,
                cwd=folder,
                stdin=stdin,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
                preexec_fn=end_with_parent,  # noqa: PLW1509  # one prctl, which threads of this process cannot disturb
            )
    finally:
        os.close(stdin)
    return RunningProcess(child.pid, os.pidfd_open(child.pid), child)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent dies (prctl(2), PR_SET_PDEATHSIG). For use in a child."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
