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

from agent.envoy.supervisor import find_envoy
from demo.lab import Lab
from tests.e2e.conftest import Clients
from tests.e2e.labs import LogFromNow, on_postgres, settings_of

SILENCE_S = 6
WATCHED_S = 1.5 * SILENCE_S
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


@contextmanager
def new_clock() -> Iterator[Clock]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("needs libfaketime")
    with tempfile.TemporaryDirectory(prefix="exitplane-e2e-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = Clock(Path(folder), library)
        made.set(0)
        yield made


@contextmanager
def with_two_clocks() -> Iterator[Lab]:
    """A lab whose control plane sees a clock of its own, and whose first exit's agent another."""
    with new_clock() as of_the_control_plane, new_clock() as of_the_agent:
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
def opener():
    return with_two_clocks


@pytest.fixture
def set_clock(lab, eventually):
    """`set_clock(whose, offset_s)`: set that of the "agent" or of the "control plane"; afterwards both are true again."""
    seen = {"agent": lab.exits[0].environment, "control plane": lab.settings.environment}
    clocks = {
        whose: Clock(Path(environment["FAKETIME_TIMESTAMP_FILE"]).parent, Path(environment["LD_PRELOAD"]))
        for whose, environment in seen.items()
    }
    yield lambda whose, offset_s: clocks[whose].set(offset_s)
    for clock in clocks.values():
        clock.set(0)
    eventually(lambda: set(states(lab).values()) == {("healthy", "")})


@contextmanager
def asking(lab: Lab, country: str) -> Iterator[Clients]:
    clients = Clients(lab, country)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(clients.run)
        try:
            yield clients
        finally:
            clients.stopped = True
        running.result()


def states(lab: Lab) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["state"], each["state_reason"]) for each in lab.api("GET", "/exits")["items"]}


def stays(lab: Lab) -> dict[str, list[tuple[str, str, str, str | None]]]:
    """The history of each exit: states, their reasons, and when each began and ended."""
    told = {}
    for exit_ in lab.api("GET", "/exits")["items"]:
        states = lab.api("GET", f"/exits/{exit_['id']}/history")["states"]
        told[exit_["name"]] = [(each["state"], each["reason"], each["since"], each["until"]) for each in states]
    return told


def what_befell(lab: Lab) -> dict[str, list[tuple[str, str]]]:
    """The states of each exit and their reasons. Their times may be pulled back to a clock that is behind."""
    told = stays(lab)
    assert all(until is None or since <= until for each in told.values() for _, _, since, until in each), told
    return {name: [(state, reason) for state, reason, _, _ in each] for name, each in told.items()}


@pytest.mark.parametrize("whose", ["agent", "control plane"])
def test_a_clock_that_jumps_costs_no_request_and_no_exit(lab, set_clock, eventually, whose):
    log = LogFromNow(lab, lab.exits[0].name)
    with asking(lab, "us") as clients:
        before = what_befell(lab)
        for offset_s in (HOUR, -HOUR):
            set_clock(whose, offset_s)
            until_s, asked = time.monotonic() + WATCHED_S, len(clients.answers)
            while time.monotonic() < until_s:
                assert set(states(lab).values()) == {("healthy", "")}, f"{offset_s:+d} s"
                time.sleep(0.2)
            eventually(lambda asked=asked: len(clients.answers) > asked + 20)
        set_clock(whose, 0)
        asked = len(clients.answers)
        eventually(lambda: len(clients.answers) > asked + 20)
        assert clients.failures(since=0) == []
        assert what_befell(lab) == before
    assert "clock.differs" in log  # it did jump


def test_an_exit_that_fell_out_while_the_clock_was_ahead_is_back_as_soon_as_it_is_heard(lab, set_clock, eventually):
    agent = lab.exits[0]
    set_clock("control plane", HOUR)
    os.kill(agent.child.pid, signal.SIGSTOP)
    try:
        eventually(lambda: states(lab)[agent.name][0] == "unreachable")
        set_clock("control plane", -HOUR)
    finally:
        os.kill(agent.child.pid, signal.SIGCONT)
    eventually(lambda: states(lab)[agent.name][0] == "healthy")
    assert [state for state, _ in what_befell(lab)[agent.name]][:2] == ["healthy", "unreachable"]
