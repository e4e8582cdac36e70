"""Opens the scenes of the end-to-end tests; tests that need the same one share it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from demo.agents import EXITPLANE
from demo.lab import Lab, LabSettings
from demo.setup import open_lab
from demo.underlay import find_tunnel_obstacle
from model.embedded_postgres import embedded_server

BOUND_S = 120.0
"""How long anything may take that has to happen, however busy the machine is."""
NEVER_S = 600.0
"""A silence timeout that no busy machine makes an exit miss, where a test is not about silence."""
UNHINDERED = {"falls_borne": 1_000, "check_timeout_s": 10}
"""The resilience of pools whose exits fall all the time and are not held back for it, nor for an answer that comes late."""


def settings_of(*exits: str, **more: Any) -> LabSettings:
    """Settings with free ports and patience; Envoy drains listeners within 2 s, so that a test of open tunnels can fail."""
    given = {"gateway_drain_time_s": 2, "silence_timeout_s": NEVER_S, "resilience": UNHINDERED, "timeout_s": BOUND_S}
    return LabSettings(exits=exits, gateway_port=0, api_port=0, xds_port=0, **given | more)


@contextmanager
def opened(settings: LabSettings) -> Iterator[Lab]:
    """Open a lab with tunnels that is not started yet."""
    obstacle = find_tunnel_obstacle()
    if obstacle:
        pytest.skip(f"needs tunnels: {obstacle}")
    with open_lab(settings) as lab:
        yield lab


@contextmanager
def started(settings: LabSettings) -> Iterator[Lab]:
    """Open a lab with tunnels, and start it."""
    with opened(settings) as lab:
        lab.start()
        yield lab


@contextmanager
def on_postgres(settings: LabSettings) -> Iterator[tuple[Lab, Path]]:
    """Open a lab on a PostgreSQL that is not the control plane's own; the folder of that server's data."""
    # not pytest's folder: as root the server runs as somebody else, who may not enter that one
    with tempfile.TemporaryDirectory(prefix="exitplane-e2e-", ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        state.chmod(0o755)
        with embedded_server(state) as url:
            environment = {**settings.environment, "EXITPLANE_DATABASE_URL": url}
            with opened(replace(settings, environment=environment)) as lab:
                lab.processes.run(
                    (*EXITPLANE, "db", "upgrade"), environment=lab.control_plane_environment, timeout_s=BOUND_S
                )
                yield lab, state / "postgres"


@contextmanager
def with_two_in_us() -> Iterator[Lab]:
    """Two exits in us, one in gb."""
    with started(settings_of("us", "us", "gb")) as lab:
        yield lab


@contextmanager
def with_lasting_database() -> Iterator[Lab]:
    """An exit each in us, gb and jp, on a PostgreSQL that stays while the control plane restarts."""
    with on_postgres(settings_of("us", "gb", "jp")) as (lab, _):
        lab.start()
        yield lab


class LogFromNow:
    """What a process of a lab writes from now on; its earlier lines, of other tests, are left out."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._path = lab.state_dir / "logs" / f"{name}.log"
        self._start = self._path.stat().st_size if self._path.exists() else 0

    def __contains__(self, text: str) -> bool:
        return text.encode() in self._path.read_bytes()[self._start :]


@dataclass
class Stage:
    """Holds one lab at a time, open for as long as tests in a row need the same one."""

    _opener: Callable[[], AbstractContextManager[Lab]] | None = None
    _scene: Lab | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def show(self, opener: Callable[[], AbstractContextManager[Lab]]) -> Lab:
        """The lab that `opener` opens: the one that is open, if it is of the same opener."""
        if self._scene is None or self._opener is not opener:
            self.close()
            self._scene = self._stack.enter_context(opener())
            self._opener = opener
        return self._scene

    def close(self) -> None:
        """Remove the lab that is open."""
        self._scene = None
        self._stack.close()
