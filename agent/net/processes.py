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
    """A process and the news of its end. `status` is what Popen.returncode is, None for one that is not our child."""

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

    async def end(self, patience_s: float) -> None:
        """SIGTERM, and SIGKILL when that takes longer than `patience_s`; returns when it is gone."""
        for number, limit_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, None)):
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
    """Start a program that ends with the agent, in `folder`, with its output in the file `log_name`. Raises OSError.

    `text` is its input: what is secret need not stand in a file.
    """
    given = filled_pipe(text)
    try:
        with (folder / log_name).open("wb") as log_file:
            child = subprocess.Popen(
                command,
                cwd=folder,
                stdin=given,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
                preexec_fn=end_with_parent,  # noqa: PLW1509  # one prctl and no Python besides
            )
    finally:
        os.close(given)
    return RunningProcess(child.pid, os.pidfd_open(child.pid), child)


def end_with_parent() -> None:
    """In the child: have the kernel end it when its parent dies, however that happens."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
