"""A running Envoy, held by its pidfd: a child of this agent, or one that an earlier agent left running."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.config import state_dir as files
from agent.config.state_dir import StateDir

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class EnvoyProcess:
    """A process, and the event of its end. `status` is its returncode as in Popen, or None if it is not a child of this agent."""

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
        """Send SIGTERM, and SIGKILL after `timeout_s`; return when the process has ended."""
        for number, limit_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, None)):
            if self.ended.is_set():
                return
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self.ended.wait()


def spawn(command: Sequence[str], folder: StateDir, *, ends_with_agent: bool) -> EnvoyProcess:
    """Start an Envoy in the state folder, and append its output to the folder's log. Raises OSError.

    It runs in its own session, so that Ctrl-C reaches the agent alone, which then stops Envoy in order.
    """
    with (folder.path / files.ENVOY_LOG).open("ab") as log_file:
        child = subprocess.Popen(
            command,
            cwd=folder.path,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            # it calls prctl alone, because other Python code is unsafe after a fork with threads
            preexec_fn=end_with_parent if ends_with_agent else None,  # noqa: PLW1509
        )
    return EnvoyProcess(child.pid, os.pidfd_open(child.pid), child)


def find_orphan(pid: int, folder: StateDir) -> EnvoyProcess | None:
    """Return the Envoy of this state folder with that process id, or None if it does not run."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    # the pidfd is opened before the check, so that the process id cannot be reused in between
    if _is_envoy_of(pid, folder):
        return EnvoyProcess(pid, pidfd, None)
    os.close(pidfd)
    return None


def read_descriptor_limit() -> int:
    """Return the number of descriptors that Envoy may open, which is the hard limit: Envoy raises its soft limit to it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**31 - 1 if hard == resource.RLIM_INFINITY else hard


def _is_envoy_of(pid: int, folder: StateDir) -> bool:
    process = Path("/proc") / str(pid)
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        return files.BOOTSTRAP.encode() in arguments and (process / "cwd").samefile(folder.path)
    except OSError:
        return False


def end_with_parent() -> None:
    """Make the kernel send SIGTERM to this child process when its parent dies (PR_SET_PDEATHSIG)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
