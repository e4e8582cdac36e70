"""A running Envoy, held by its pidfd: a child of this agent, or one that an earlier agent left running."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.config import state_dir as files
from agent.config.state_dir import StateDir
from agent.net.processes import RunningProcess, end_with_parent


def spawn(command: Sequence[str], folder: StateDir, *, ends_with_agent: bool) -> RunningProcess:
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
    return RunningProcess(child.pid, os.pidfd_open(child.pid), child)


def find_orphan(pid: int, folder: StateDir) -> RunningProcess | None:
    """Return the Envoy of this state folder with that process id, or None if it does not run."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    # the pidfd is opened before the check, so that the process id cannot be reused in between
    if _is_envoy_of(pid, folder):
        return RunningProcess(pid, pidfd, None)
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
