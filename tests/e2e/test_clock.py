"""Tests of a host's clock that jumps a day ahead, then two back: no request fails, and no exit is lost.

The agent or the control plane runs with the wall clock of libfaketime; the monotonic clock is real. Envoy and PostgreSQL do
not work with that library, so their time is real.
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

from agent.envoy.supervisor import find_envoy
from demo.lab import Lab
from tests.e2e.conftest import RequestLoop
from tests.e2e.labs import LogFromNow, on_postgres, settings_of

SILENCE_S = 6
WATCHED_S = 1.5 * SILENCE_S
DAY = 24 * 3600


@dataclass(frozen=True)
class FakeWallClock:
    """A wall clock of libfaketime that can be set."""

    folder: Path
    library: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of a program that uses this clock."""
        return {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    @property
    def envoy(self) -> Path:
        """A script that runs Envoy with the real time."""
        program = self.folder / "envoy"
        program.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec "{find_envoy(None)}" "$@"\n')
        program.chmod(0o755)
        return program

    def set(self, offset_s: int) -> None:
        """Set the offset from the real time."""
        written = self.folder / "clock.new"
        written.write_text(f"{offset_s:+d}\n")
        written.chmod(0o644)
        written.replace(self.folder / "clock")


@contextmanager
def create_clock() -> Iterator[FakeWallClock]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("needs libfaketime")
    with tempfile.TemporaryDirectory(prefix="exitplane-e2e-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = FakeWallClock(Path(folder), library)
        made.set(0)
        yield made


@contextmanager
def with_two_clocks() -> Iterator[Lab]:
    """Start a lab with separate clocks for the control plane and for the agent of the first exit."""
    with create_clock() as of_the_control_plane, create_clock() as of_the_agent:
        settings = settings_of(
            *("us", "gb"),
            heartbeat_interval_s=1,
            silence_timeout_s=SILENCE_S,
            environment=of_the_control_plane.environment,
            exit_arguments=("--envoy", str(of_the_agent.envoy)),
        )
        with on_postgres(settings) as (lab, _):
            lab.exits[0].environment = of_the_agent.environment
            lab.start()
            yield lab


@pytest.fixture(scope="module")
def lab_opener():
    return with_two_clocks


@pytest.fixture
def set_clock(lab, eventually):
    """Set the clock of the "agent" or the "control plane" (`set_clock(whose, offset_s)`), and reset both at the end."""
    seen = {"agent": lab.exits[0].environment, "control plane": lab.settings.environment}
    clocks = {
        whose: FakeWallClock(Path(environment["FAKETIME_TIMESTAMP_FILE"]).parent, Path(environment["LD_PRELOAD"]))
        for whose, environment in seen.items()
    }
    yield lambda whose, offset_s: clocks[whose].set(offset_s)
    for clock in clocks.values():
        clock.set(0)
    eventually(lambda: set(read_states(lab).values()) == {("healthy", "")})


@contextmanager
def run_clients(lab: Lab, country: str) -> Iterator[RequestLoop]:
    clients = RequestLoop(lab, country)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(clients.run)
        try:
            yield clients
        finally:
            clients.stopped = True
        running.result()


def read_states(lab: Lab) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["state"], each["state_reason"]) for each in lab.api("GET", "/exits")["items"]}


def read_history(lab: Lab) -> dict[str, list[tuple[str, str, str, str | None]]]:
    """Read the history of each exit: states, their reasons, and when each began and ended."""
    history = {}
    for exit_ in lab.api("GET", "/exits")["items"]:
        periods = lab.api("GET", f"/exits/{exit_['id']}/history?hours=96")["states"]
        history[exit_["name"]] = [(each["state"], each["reason"], each["since"], each["until"]) for each in periods]
    return history


def read_states_with_reasons(lab: Lab) -> dict[str, list[tuple[str, str]]]:
    """Read the states of each exit and their reasons, without times, which may be clamped to a clock that is behind."""
    history = read_history(lab)
    assert all(until is None or since <= until for each in history.values() for _, _, since, until in each), history
    return {name: [(state, reason) for state, reason, _, _ in each] for name, each in history.items()}


@pytest.mark.parametrize("whose", ["agent", "control plane"])
def test_jumping_clock_costs_no_request_and_no_exit(lab, set_clock, eventually, whose):
    log = LogFromNow(lab, lab.exits[0].name)
    with run_clients(lab, "us") as clients:
        before = read_states_with_reasons(lab)
        for offset_s in (DAY, -DAY):
            set_clock(whose, offset_s)
            until_s, asked = time.monotonic() + WATCHED_S, len(clients.answers)
            while time.monotonic() < until_s:
                assert set(read_states(lab).values()) == {("healthy", "")}, f"{offset_s:+d} s"
                time.sleep(0.2)
            eventually(lambda asked=asked: len(clients.answers) > asked + 20)
        set_clock(whose, 0)
        asked = len(clients.answers)
        eventually(lambda: len(clients.answers) > asked + 20)
        assert clients.failures(since=0) == []
        assert read_states_with_reasons(lab) == before
    assert "clock.differs" in log  # the clock did jump


def test_exit_lost_while_the_clock_was_ahead_returns_with_heartbeats(lab, set_clock, eventually):
    agent = lab.exits[0]
    set_clock("control plane", DAY)
    os.kill(agent.child.pid, signal.SIGSTOP)
    try:
        eventually(lambda: read_states(lab)[agent.name][0] == "unreachable")
        set_clock("control plane", -DAY)
    finally:
        os.kill(agent.child.pid, signal.SIGCONT)
    eventually(lambda: read_states(lab)[agent.name][0] == "healthy")
    assert [state for state, _ in read_states_with_reasons(lab)[agent.name]][:2] == ["healthy", "unreachable"]
