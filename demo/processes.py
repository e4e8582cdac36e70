"""The processes of a scene: started in sessions of their own, ended by id, found again by a mark in their environment."""

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

MARK: Final = "EXITPLANE_SCENE"
"""The environment variable by which a process, and whatever it starts, belongs to a scene."""
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopStage(IntEnum):
    """When a process ends: higher stages first, those of one stage together."""

    TUNNEL = 0
    PAGE = 1
    CONTROL_PLANE = 2
    AGENT = 3


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the scene and the file that takes its output."""

    name: str
    stage: StopStage
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs; a process that ended is reaped here."""
        return self.process.poll() is None

    def check(self) -> None:
        """Raise SceneError, with the end of its log, if it does not run any more."""
        if not self.alive:
            raise LabError(f"{self.name} ended with status {self.process.returncode}\n{self.tail()}".rstrip())

    def tail(self, lines: int = 8) -> str:
        """The last `lines` lines it wrote."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


class ProcessGroup:
    """Starts and ends the children of one scene. `mark` tells this scene from every other one on the machine."""

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
        """Start `argv`, in a network namespace if one is named; its output is appended to `<name>.log`."""
        log = self._folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                in_namespace(namespace, argv),
                env=self.environment(environment),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the scene, which ends its children in order
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
        """What `argv` printed. Raises SceneError with its last line of complaint if it failed or took too long."""
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
            said = (error.stderr or error.stdout or "").strip()
            raise LabError(f"`{' '.join(argv)}` ended with status {error.returncode}\n{said}".rstrip()) from error
        return done.stdout

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a child: the mark, `extra`, and what this process has itself.

        Settings of an Exitplane that this user runs elsewhere are left out: the scene is not to touch its database.
        """
        own = {name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")}
        return {**own, "PYTHONUNBUFFERED": "1", **(extra or {}), MARK: self._mark}

    def owns(self, pid: int) -> bool:
        """Whether process `pid` runs and belongs to this scene."""
        return _carries(pid, self._mark)

    def end(self, children: Iterable[Child], patience_s: float = 10) -> None:
        """SIGTERM to each, SIGKILL to those that still run after `patience_s`, and reap them all."""
        children = list(children)
        for child in children:
            if child.alive:
                child.process.terminate()
        deadline = time.monotonic() + patience_s
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._children = [child for child in self._children if child not in children]

    def kill(self, child: Child) -> None:
        """SIGKILL: the child gets no chance to tidy up."""
        child.process.kill()
        child.process.wait()
        self._children = [other for other in self._children if other is not child]

    def end_all(self) -> None:
        """End every child, stage by stage, and then whatever they left behind. Can be repeated."""
        for stage in sorted(StopStage, reverse=True):
            self.end(child for child in self._children if child.stage == stage)
        end_marked(self._mark)


def in_namespace(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """`argv` as it runs inside a network namespace, or as it is if there is none."""
    return [*(("ip", "netns", "exec", namespace) if namespace else ()), *argv]


def marked(mark: str) -> list[int]:
    """The ids of the processes that carry `mark`, as far as this user may look."""
    pids = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return sorted(pid for pid in pids if pid != os.getpid() and _carries(pid, mark))


def _carries(pid: int, mark: str) -> bool:
    with contextlib.suppress(OSError):
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def end_marked(mark: str, patience_s: float = 5) -> None:
    """End every process that carries `mark`: those that a killed scene, or a killed child of this one, left behind."""
    end_pids(marked(mark), patience_s)
    # A process that was being started meanwhile is found by the second look.
    end_pids(marked(mark), 0)


def end_pids(pids: Iterable[int], patience_s: float) -> None:
    """SIGTERM to each, SIGKILL after `patience_s`, and wait until they are gone (at most 5 s more)."""
    with contextlib.ExitStack() as stack:
        handles = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                # A handle keeps meaning the same process when its id is given to another one.
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                handles.append(handle)
        for sent, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
            for handle in handles:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, sent)
            handles = _still_running(handles, wait_s)


def _still_running(handles: list[int], patience_s: float) -> list[int]:
    """Those of the process handles whose processes did not end within `patience_s`."""
    left = set(handles)
    poller = select.poll()
    for handle in left:
        poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + patience_s
    while left and (wait_s := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(wait_s * 1000):
            poller.unregister(handle)
            left.discard(handle)
    return list(left)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within this block the first SIGTERM, SIGHUP or Ctrl-C raises KeyboardInterrupt; the impatient ones after it do not."""
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
    """Within this block nobody can interrupt: tidying up comes to its (bounded) end. Only the main thread needs it."""
    with _handling(lambda _signal, _frame: None):
        yield


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
