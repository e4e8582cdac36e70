"""Fixtures of the end-to-end tests: real Envoys, a real PostgreSQL, and a WireGuard tunnel for each exit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import cycle

import pytest

from demo.errors import LabError
from demo.http_client import HttpAnswer
from demo.lab import Lab
from tests.e2e.labs import BOUND_S, LabCache, with_two_in_us
from tests.scheduling import LONGEST_FIRST, lab_of

CLOSINGS = (
    "(http.(clients|gateways).downstream_cx_destroy_local|"
    "cluster.(pool/.*|targets).upstream_(cx_destroy_remote|rq_rx_reset))$"
)
"""Envoy's counters of connections that it closed, or that an exit or a target closed: the causes of failed requests are among
them."""


TIMEOUT_S = 600


def pytest_itemcollected(item):
    for marker in ("envoy", "postgres", "tunnels", "slow"):
        item.add_marker(marker)
    if item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_collection_modifyitems(items):
    """Group modules by lab, those with the longest tests first; within a lab, modules keep their random order."""
    own = {item for item in items if "/e2e/" in str(item.path)}
    in_order = [item for item in items if item in own]
    ordered = iter(sorted(in_order, key=lambda item: LONGEST_FIRST.index(lab_of(item.path))))
    items[:] = [next(ordered) if item in own else item for item in items]


@pytest.fixture(scope="session")
def lab_cache() -> Iterator[LabCache]:
    cache = LabCache()
    yield cache
    cache.close()


@pytest.fixture(scope="module")
def lab_opener() -> Callable[[], AbstractContextManager[Lab]]:
    """The function that opens a module's lab; consecutive modules with the same one share a lab."""
    return with_two_in_us


@pytest.fixture(scope="module")
def lab(request, lab_cache, lab_opener) -> Iterator[Lab]:
    """The lab of a module. After a failed test it is closed, because its state is unknown."""
    failed = request.session.testsfailed
    yield lab_cache.open(lab_opener)
    if request.session.testsfailed > failed:
        lab_cache.close()


@dataclass
class RequestLoop:
    """Clients that repeat requests for a country, alternately by CONNECT and by plain HTTP."""

    lab: Lab
    country: str
    timeout_s: float = BOUND_S
    answers: list[tuple[float, HttpAnswer | OSError]] = field(default_factory=list)
    """The start of each request, and its answer or error."""
    closings: dict[str, dict[str, int] | str] = field(default_factory=dict)
    """CLOSINGS of each Envoy, read at the end if a request failed."""
    stopped: bool = False

    def run(self) -> None:
        while not self.stopped:
            for tunnel in (True, False):
                began = time.monotonic()
                try:
                    answer = self.lab.request(self.country, tunnel=tunnel, timeout_s=self.timeout_s)
                    self.answers.append((began, answer))
                except OSError as error:
                    way, took_s = "a tunnel" if tunnel else "plain HTTP", time.monotonic() - began
                    self.answers.append((began, OSError(f"by {way}, after {took_s:.3f} s: {error!r}")))

    def failures(self, since: float) -> list[str]:
        """List the failures of requests that began at or after a time; older ones may be lost with a dying exit."""
        later = [answer for began, answer in self.answers if began >= since]
        failed = [str(getattr(answer, "text", answer)) for answer in later if getattr(answer, "status", 0) != 200]
        return [*failed, f"closings: {self.closings}"] if failed and self.closings else failed

    def sources(self, since: float) -> set[str]:
        later = [answer for began, answer in self.answers if began >= since]
        return {answer.json()["source"] for answer in later if getattr(answer, "status", 0) == 200}


@pytest.fixture
def run_clients(lab: Lab) -> Callable[..., object]:
    @contextmanager
    def ask(country: str, **more: float) -> Iterator[RequestLoop]:
        clients = RequestLoop(lab, country, **more)
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(clients.run) for _ in range(2)]
            try:
                yield clients
            finally:
                clients.stopped = True
            for future in futures:
                future.result()
        if clients.failures(since=0):
            clients.closings = {agent.name: closings(agent) for agent in (lab.gateway, *lab.exits)}

    return ask


def closings(agent) -> dict[str, int] | str:
    """Read CLOSINGS of an agent's Envoy that are not zero, or the error if it does not answer."""
    try:
        lines = agent.query_admin(f"/stats?filter={CLOSINGS}&format=text").splitlines()
    except LabError as error:
        return str(error)
    counted = (line.rpartition(": ") for line in lines if line)
    return {name: int(count) for name, _, count in counted if int(count)}


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds: `eventually(condition)`."""

    def ask(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline, f"{condition} did not hold within {BOUND_S:g} s"
            time.sleep(0.05)

    return ask


@pytest.fixture
def remove_pool(lab: Lab, eventually: Callable[..., None]) -> Callable[[str], None]:
    """Delete a pool, and wait until the gateway has removed its cluster, which goes last: `remove_pool(id)`.

    Otherwise the next test, which counts updates, would count this one.
    """

    def remove(pool_id: str) -> None:
        lab.api("DELETE", f"/pools/{pool_id}")
        eventually(lambda: f"pool/{pool_id}::" not in lab.gateway.query_admin("/clusters"))

    return remove


@pytest.fixture
def stat() -> Callable[..., int]:
    """Sum the counters and gauges of an agent's Envoy whose names end in `name`: `stat(agent, name)`."""

    def read(agent, name: str) -> int:
        lines = agent.query_admin(f"/stats?filter={name}$&format=text").splitlines()
        values = [line.rpartition(": ")[2] for line in lines if line]
        assert values, f"Envoy has no statistic that ends in {name}"
        return sum(int(value) for value in values)

    return read


@dataclass
class SteadyLoad:
    """Clients that send requests at an even rate, which leaves processor time for other work."""

    lab: Lab
    choose: Callable[[], str]
    every_s: float
    answers: list[tuple[str, HttpAnswer | OSError]] = field(default_factory=list)
    """The country of each request, and its answer or error."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        for tunnel in cycle((True, False)):
            if self.stopped.wait(self.every_s):
                return
            country = self.choose()
            try:
                answer = self.lab.request(country, tunnel=tunnel, timeout_s=BOUND_S)
                self.answers.append((country, answer))
            except OSError as error:
                self.answers.append((country, error))

    def other_than(self, *statuses: int) -> list[tuple[str, str]]:
        """List the answers with another status, and the errors."""
        return [
            (country, str(getattr(answer, "text", answer)))
            for country, answer in [*self.answers]
            if getattr(answer, "status", None) not in statuses
        ]

    def sources(self) -> dict[str, set[str]]:
        """Return the sources that the page saw, by requested country."""
        found: dict[str, set[str]] = {}
        for country, answer in [*self.answers]:
            if getattr(answer, "status", None) == 200:
                found.setdefault(country, set()).add(answer.json()["source"])
        return found


@pytest.fixture
def run_load(lab: Lab) -> Callable[..., object]:
    """Run clients, each with up to 20 requests a second for the country `choose()`: `with run_load(choose) as load`."""

    @contextmanager
    def load(choose: Callable[[], str], *, clients: int = 3, every_s: float = 0.05) -> Iterator[SteadyLoad]:
        made = SteadyLoad(lab, choose, every_s)
        with ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(made.run) for _ in range(clients)]
            try:
                yield made
            finally:
                made.stopped.set()
            for future in futures:
                future.result()

    return load
