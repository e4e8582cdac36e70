"""One running Envoy, held by its pidfd: our own child, or one that an earlier agent left."""

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
    """Start an Envoy in the state folder, its output appended to the folder's log. Raises OSError.

    It gets a session of its own: Ctrl-C on the terminal is the agent's to hear, which then ends Envoy in order.
    """
    with (folder.path / files.ENVOY_LOG).open("ab") as log_file:
        child = subprocess.Popen(
            command,
            cwd=folder.path,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            # one prctl and no Python besides, so that threads of this process cannot get in its way
            preexec_fn=end_with_parent if ends_with_agent else None,  # noqa: PLW1509
        )
    return RunningProcess(child.pid, os.pidfd_open(child.pid), child)


def find_left(pid: int, folder: StateDir) -> RunningProcess | None:
    """The Envoy of this state folder with that process id, if it still runs."""
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    # the pidfd is held before looking, so that what was looked at cannot be replaced by another of the same id
    if _is_envoy_of(pid, folder):
        return RunningProcess(pid, pidfd, None)
    os.close(pidfd)
    return None


def descriptors_max() -> int:
    """How many descriptors an Envoy may open: it raises its own soft limit to the hard one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**31 - 1 if hard == resource.RLIM_INFINITY else hard


def _is_envoy_of(pid: int, folder: StateDir) -> bool:
    process = Path("/proc") / str(pid)
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        return files.BOOTSTRAP.encode() in arguments and (process / "cwd").samefile(folder.path)
    except OSError:
        return False
