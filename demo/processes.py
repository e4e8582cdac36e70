"""The processes of a lab: started in sessions of their own, ended by id, and found by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any, Final

from demo.errors import LabError

MARK: Final = "EXITPLANE_LAB"
"""The environment variable that assigns a process, and the processes that it starts, to a lab."""
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopStage(IntEnum):
    """The order in which processes end: higher stages first, those of one stage together."""

    TUNNEL = 0
    PAGE = 1
    CONTROL_PLANE = 2
    AGENT = 3


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the lab and the file of its output."""

    name: str
    stage: StopStage
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """True while it runs. A process that has ended is reaped here."""
        return self.process.poll() is None

    def check(self) -> None:
        """Raise LabError, with the end of its log, if it has ended."""
        if not self.alive:
            raise LabError(f"{self.name} ended with status {self.process.returncode}\n{self.tail()}".rstrip())

    def tail(self, lines: int = 8) -> str:
        """Return the last lines of its output."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


class ProcessGroup:
    """The child processes of one lab. `mark` distinguishes the lab from all others on the machine."""

    def __init__(self, mark: str, folder: Path) -> None:
        self._mark = mark
        self._folder = folder
        self._children: list[Child] = []

    def start(
        self,
        name: str,
        stage: StopStage,
        argv: Sequence[str],
        *,
        namespace: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start `argv`, in a network namespace if one is given; its output is appended to `<name>.log`."""
        log = self._folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                in_namespace(namespace, argv),
                env=self.environment(environment),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must reach only the lab, which ends its children in order
            )
        child = Child(name, stage, process, log)
        self._children.append(child)
        return child

    def run(
        self,
        argv: Sequence[str],
        *,
        namespace: str | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 30,
    ) -> str:
        """Run `argv`, and return its output. Raises LabError, with its errors, if it fails or takes too long."""
        try:
            done = subprocess.run(
                in_namespace(namespace, argv),
                env=self.environment(environment),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                start_new_session=True,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"`{' '.join(argv)}` took longer than {timeout_s:g} s") from error
        except subprocess.CalledProcessError as error:
            output = (error.stderr or error.stdout or "").strip()
            raise LabError(f"`{' '.join(argv)}` ended with status {error.returncode}\n{output}".rstrip()) from error
        return done.stdout

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Build the environment of a child: the mark, `extra`, and the environment of this process.

        Variables EXITPLANE_* are left out, because they may name the database of another Exitplane.
        """
        own = {name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")}
        return {**own, "PYTHONUNBUFFERED": "1", **(extra or {}), MARK: self._mark}

    def owns(self, pid: int) -> bool:
        """Return True if process `pid` runs and belongs to this lab."""
        return _has_mark(pid, self._mark)

    def end(self, children: Iterable[Child], timeout_s: float = 10) -> None:
        """Send SIGTERM to each, and SIGKILL to those that still run after `timeout_s`; reap them all."""
        children = list(children)
        for child in children:
            if child.alive:
                child.process.terminate()
        deadline = time.monotonic() + timeout_s
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._children = [child for child in self._children if child not in children]

    def kill(self, child: Child) -> None:
        """Send SIGKILL to a child, and reap it."""
        child.process.kill()
        child.process.wait()
        self._children = [other for other in self._children if other is not child]

    def end_all(self) -> None:
        """End all children, stage by stage, then all other processes with the mark. Can be repeated."""
        for stage in sorted(StopStage, reverse=True):
            self.end(child for child in self._children if child.stage == stage)
        end_processes_with_mark(self._mark)


def in_namespace(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` inside a network namespace, or `argv` without one."""
    return [*(("ip", "netns", "exec", namespace) if namespace else ()), *argv]


def find_processes_with_mark(mark: str) -> list[int]:
    """Find the ids of the processes with `mark`, as far as this user may read their environments."""
    pids = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return sorted(pid for pid in pids if pid != os.getpid() and _has_mark(pid, mark))


def _has_mark(pid: int, mark: str) -> bool:
    with contextlib.suppress(OSError):
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def end_processes_with_mark(mark: str, timeout_s: float = 5) -> None:
    """End all processes with `mark`, which a killed lab, or a killed child of this one, left behind."""
    end_pids(find_processes_with_mark(mark), timeout_s)
    # a process that was starting meanwhile is found by the second search
    end_pids(find_processes_with_mark(mark), 0)


def end_pids(pids: Iterable[int], timeout_s: float) -> None:
    """Send SIGTERM to each, and SIGKILL after `timeout_s`; wait until they have ended, at most 5 s more."""
    with contextlib.ExitStack() as stack:
        handles = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                # a handle still refers to the same process when its id is reused
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                handles.append(handle)
        for number, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
            for handle in handles:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, number)
            handles = _wait_for_end(handles, wait_s)


def _wait_for_end(handles: list[int], timeout_s: float) -> list[int]:
    """Wait for the processes of handles, and return the handles of those that did not end within `timeout_s`."""
    running = set(handles)
    poller = select.poll()
    for handle in running:
        poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while running and (wait_s := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(wait_s * 1000):
            poller.unregister(handle)
            running.discard(handle)
    return list(running)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for the first SIGTERM, SIGHUP or Ctrl-C within the block, and ignore the following ones."""
    interrupted = False

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    with _handling(interrupt):
        yield


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Ignore these signals within the block, so that cleanup, which takes a bounded time, completes."""
    with _handling(lambda _signal, _frame: None):
        yield


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    # signals arrive only in the main thread
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
