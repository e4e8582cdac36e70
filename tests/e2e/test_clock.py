"""The clock of a host jumps an hour ahead, and then two back: nobody's requests fail, and no exit is lost for it.

The wall clock is libfaketime's, which an agent or the control plane is started with; time that only passes is the true one. Envoy
does not run with that library, and PostgreSQL does not start with it: theirs is the true time.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.supervisor import find_envoy
from cli.demo.agents import EXITPLANE
from cli.demo.opening import open_scene
from cli.demo.scene import Scene, SceneSettings
from cli.demo.underlay import why_no_tunnels
from model.embedded import embedded_server
from tests.e2e.conftest import FREE_PORTS, Clients

SILENCE_S = 4
WATCHED_S = 3 * SILENCE_S
HOUR = 3600


@dataclass(frozen=True)
class Clock:
    """A wall clock that can be set."""

    folder: Path
    library: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program is started with to see it."""
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    @property
    def envoy(self) -> Path:
        """A program that is Envoy, with the true time."""
        program = self.folder / "envoy"
        program.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec "{find_envoy(None)}" "$@"\n')
        program.chmod(0o755)
        return program

    def set(self, offset_s: int) -> None:
        """So much ahead of the true time."""
        written = self.folder / "clock.new"
        written.write_text(f"{offset_s:+d}\n")
        written.chmod(0o644)
        written.replace(self.folder / "clock")


@pytest.fixture
def clock():
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("needs libfaketime")
    with tempfile.TemporaryDirectory(prefix="exitplane-e2e-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = Clock(Path(folder), library)
        made.set(0)
        yield made


@contextmanager
def opened(**more) -> Iterator[Scene]:
    """A scene that was not started yet."""
    obstacle = why_no_tunnels()
    if obstacle:
        pytest.skip(f"needs tunnels: {obstacle}")
    often = {"heartbeat_interval_s": 1, "silence_timeout_s": SILENCE_S}
    with open_scene(SceneSettings(exits=("us", "gb"), **often, **FREE_PORTS, **more)) as scene:
        yield scene


@contextmanager
def of_an_agent(clock: Clock) -> Iterator[Scene]:
    """A scene whose first exit's agent sees the clock."""
    with opened(exit_arguments=("--envoy", str(clock.envoy))) as scene:
        scene.exits[0].environment = clock.environment
        scene.start()
        yield scene


@contextmanager
def of_the_control_plane(clock: Clock) -> Iterator[Scene]:
    """A scene whose API, keeper and xDS server see the clock."""
    with (
        embedded_server(clock.folder) as url,
        opened(environment={"EXITPLANE_DATABASE_URL": url, **clock.environment}) as scene,
    ):
        scene.processes.run((*EXITPLANE, "db", "upgrade"), environment=scene.control_plane_environment)
        scene.start()
        yield scene


@contextmanager
def asking(scene: Scene, country: str) -> Iterator[Clients]:
    clients = Clients(scene, country)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(clients.run)
        try:
            yield clients
        finally:
            clients.stopped = True
        running.result()


def states(scene: Scene) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["state"], each["state_reason"]) for each in scene.api("GET", "/exits")["items"]}


def stays(scene: Scene) -> dict[str, list[tuple[str, str, str, str | None]]]:
    """The history of each exit: states, their reasons, and when each began and ended."""
    told = {}
    for exit_ in scene.api("GET", "/exits")["items"]:
        states = scene.api("GET", f"/exits/{exit_['id']}/history")["states"]
        told[exit_["name"]] = [(each["state"], each["reason"], each["since"], each["until"]) for each in states]
    return told


def what_befell(scene: Scene) -> dict[str, list[tuple[str, str]]]:
    """The states of each exit and their reasons. Their times may be pulled back to a clock that is behind."""
    told = stays(scene)
    assert all(until is None or since <= until for each in told.values() for _, _, since, until in each), told
    return {name: [(state, reason) for state, reason, _, _ in each] for name, each in told.items()}


@pytest.mark.parametrize("whose", [of_an_agent, of_the_control_plane])
def test_a_clock_that_jumps_costs_no_request_and_no_exit(clock, whose):
    with whose(clock) as scene, asking(scene, "us") as clients:
        before = what_befell(scene)
        for offset_s in (HOUR, -HOUR, 0):
            clock.set(offset_s)
            until_s, asked = time.monotonic() + WATCHED_S, len(clients.answers)
            while time.monotonic() < until_s:
                assert set(states(scene).values()) == {("healthy", "")}, f"{offset_s:+d} s"
                time.sleep(0.2)
            assert len(clients.answers) > asked + 20
        assert clients.failures(since=0) == []
        assert what_befell(scene) == before
        # it did jump
        assert "clock.differs" in scene.exits[0].child.log.read_text()


def test_an_exit_that_fell_out_while_the_clock_was_ahead_is_back_as_soon_as_it_is_heard(clock, eventually):
    with of_the_control_plane(clock) as scene:
        agent = scene.exits[0]
        clock.set(HOUR)
        os.kill(agent.child.pid, signal.SIGSTOP)
        try:
            eventually(lambda: states(scene)[agent.name][0] == "unreachable", timeout_s=30)
            clock.set(-HOUR)
        finally:
            os.kill(agent.child.pid, signal.SIGCONT)
        eventually(lambda: states(scene)[agent.name][0] == "healthy", timeout_s=10)
        assert [state for state, _ in what_befell(scene)[agent.name]][:2] == ["healthy", "unreachable"]
