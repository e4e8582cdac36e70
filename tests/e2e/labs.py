"""The labs of the end-to-end tests; tests that need the same one share it."""

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
"""The time limit of every wait, generous for a busy machine."""
NEVER_S = 600.0
"""A silence timeout that no exit exceeds on a busy machine, for tests that are not about silence."""
TOLERANT_RESILIENCE = {"flap_threshold": 1_000, "check_timeout_s": 10}
"""The resilience of pools whose exits may fail often and answer late without being held back."""


def settings_of(*exits: str, **more: Any) -> LabSettings:
    """Build settings with free ports and long timeouts. Envoy drains listeners in 2 s, so that tests of open tunnels can fail."""
    defaults = {
        "gateway_drain_time_s": 2,
        "silence_timeout_s": NEVER_S,
        "resilience": TOLERANT_RESILIENCE,
        "timeout_s": BOUND_S,
    }
    return LabSettings(exits=exits, gateway_port=0, api_port=0, xds_port=0, **defaults | more)


@contextmanager
def opened(settings: LabSettings) -> Iterator[Lab]:
    """Open a lab with tunnels, without starting it."""
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
    """Open a lab on a separate PostgreSQL, and yield the folder of that server's data, too."""
    # not pytest's folder: root's server runs as another user, who may not enter it
    with tempfile.TemporaryDirectory(prefix="exitplane-e2e-", ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        state.chmod(0o755)
        with embedded_server(state) as url:
            environment = {**settings.environment, "EXITPLANE_DATABASE_URL": url}
            with opened(replace(settings, environment=environment)) as lab:
                for command in (("db", "upgrade"), ("encryption", "create")):
                    lab.processes.run(
                        (*EXITPLANE, *command), environment=lab.control_plane_environment, timeout_s=BOUND_S
                    )
                yield lab, state / "postgres"


@contextmanager
def with_two_in_us() -> Iterator[Lab]:
    """Start a lab with two exits in us and one in gb, and with an empty folder of certificates."""
    with tempfile.TemporaryDirectory(prefix="exitplane-e2e-") as folder:
        environment = {"EXITPLANE_CERTIFICATE_FOLDER": folder}
        with started(settings_of("us", "us", "gb", environment=environment)) as lab:
            yield lab


@contextmanager
def with_lasting_database() -> Iterator[Lab]:
    """Start a lab with exits in us, gb and jp, on a PostgreSQL that runs while the control plane restarts."""
    with on_postgres(settings_of("us", "gb", "jp")) as (lab, _):
        lab.start()
        yield lab


class LogFromNow:
    """The log of a process of a lab from now on, without the lines of earlier tests."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._path = lab.state_dir / "logs" / f"{name}.log"
        self._start = self._path.stat().st_size if self._path.exists() else 0

    def __contains__(self, text: str) -> bool:
        return text.encode() in self._path.read_bytes()[self._start :]


@dataclass
class LabCache:
    """A cache of one lab, which stays open while consecutive tests need the same one."""

    _opener: Callable[[], AbstractContextManager[Lab]] | None = None
    _lab: Lab | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def open(self, lab_opener: Callable[[], AbstractContextManager[Lab]]) -> Lab:
        """Open a lab, or return the open one if it has the same opener."""
        if self._lab is None or self._opener is not lab_opener:
            self.close()
            self._lab = self._stack.enter_context(lab_opener())
            self._opener = lab_opener
        return self._lab

    def close(self) -> None:
        """Remove the open lab."""
        self._lab = None
        self._stack.close()
