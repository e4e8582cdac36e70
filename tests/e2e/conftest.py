"""The whole plane on this machine: real Envoys, a real PostgreSQL, and a WireGuard tunnel for each exit."""

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
from tests.e2e.labs import BOUND_S, Stage, with_two_in_us
from tests.scheduling import LONGEST_FIRST, scene_of

CLOSINGS = (
    "(http.(clients|gateways).downstream_cx_destroy_local|"
    "cluster.(pool/.*|targets).upstream_(cx_destroy_remote|rq_rx_reset))$"
)
"""What Envoy counts when it closes on a client or a gateway, or is closed on by an exit or a target: nothing of this
happens while all clients are answered."""


TIMEOUT_S = 600


def pytest_itemcollected(item):
    for marker in ("envoy", "postgres", "tunnels", "slow"):
        item.add_marker(marker)
    if item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_collection_modifyitems(items):
    """Open each lab once, those first whose tests take longest; within a lab, modules keep their random order."""
    own = {item for item in items if "/e2e/" in str(item.path)}
    in_order = [item for item in items if item in own]
    ordered = iter(sorted(in_order, key=lambda item: LONGEST_FIRST.index(scene_of(item.path))))
    items[:] = [next(ordered) if item in own else item for item in items]


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


@pytest.fixture(scope="module")
def opener() -> Callable[[], AbstractContextManager[Lab]]:
    """How the lab of a module is opened; modules with the same one share a lab."""
    return with_two_in_us


@pytest.fixture(scope="module")
def lab(request, stage, opener) -> Iterator[Lab]:
    """The lab of a module. One in which a test failed is not handed on: the test may have left it in any state."""
    failed = request.session.testsfailed
    yield stage.show(opener)
    if request.session.testsfailed > failed:
        stage.close()


@dataclass
class Clients:
    """Clients that ask for a country over and over, by CONNECT and by plain HTTP in turn."""

    lab: Lab
    country: str
    answers: list[tuple[float, HttpAnswer | OSError]] = field(default_factory=list)
    """When it was asked, and what came of it."""
    closings: dict[str, dict[str, int] | str] = field(default_factory=dict)
    """Who closed how much on whom, by Envoy, once the clients are done and if one was not answered."""
    stopped: bool = False

    def run(self) -> None:
        while not self.stopped:
            for tunnel in (True, False):
                asked_at = time.monotonic()
                try:
                    self.answers.append((asked_at, self.lab.request(self.country, tunnel=tunnel)))
                except OSError as error:
                    way, took_s = "a tunnel" if tunnel else "plain HTTP", time.monotonic() - asked_at
                    self.answers.append((asked_at, OSError(f"by {way}, after {took_s:.3f} s: {error!r}")))

    def failures(self, since: float) -> list[str]:
        """Of requests that began at or after a time: what was in the middle of a dying exit is lost with it."""
        later = [answer for asked_at, answer in self.answers if asked_at >= since]
        failed = [str(getattr(answer, "text", answer)) for answer in later if getattr(answer, "status", 0) != 200]
        return [*failed, f"closings: {self.closings}"] if failed and self.closings else failed

    def sources(self, since: float) -> set[str]:
        later = [answer for asked_at, answer in self.answers if asked_at >= since]
        return {answer.json()["source"] for answer in later if getattr(answer, "status", 0) == 200}


@pytest.fixture
def asking(lab: Lab) -> Callable[..., object]:
    @contextmanager
    def ask(country: str) -> Iterator[Clients]:
        clients = Clients(lab, country)
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
    """What `agent`'s Envoy counted of CLOSINGS since it started, or why it does not say."""
    try:
        lines = agent.query_admin(f"/stats?filter={CLOSINGS}&format=text").splitlines()
    except LabError as error:
        return str(error)
    counted = (line.rpartition(": ") for line in lines if line)
    return {name: int(count) for name, _, count in counted if int(count)}


@pytest.fixture
def eventually() -> Callable[..., None]:
    """`eventually(condition)`: ask again until it holds."""

    def ask(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + BOUND_S
        while not condition():
            assert time.monotonic() < deadline, f"{condition} did not come to hold within {BOUND_S:g} s"
            time.sleep(0.05)

    return ask


@pytest.fixture
def remove_pool(lab: Lab, eventually: Callable[..., None]) -> Callable[[str], None]:
    """`remove_pool(id)`: delete a pool, and wait until the gateway has nothing of it: its cluster goes last, after a grace.

    The next test counts updates, and would count that one.
    """

    def remove(pool_id: str) -> None:
        lab.api("DELETE", f"/pools/{pool_id}")
        eventually(lambda: f"pool/{pool_id}::" not in lab.gateway.query_admin("/clusters"))

    return remove


@pytest.fixture
def stat() -> Callable[..., int]:
    """`stat(agent, name)`: the sum of its Envoy's counters and gauges whose name ends in `name`."""

    def read(agent, name: str) -> int:
        lines = agent.query_admin(f"/stats?filter={name}$&format=text").splitlines()
        values = [line.rpartition(": ")[2] for line in lines if line]
        assert values, f"Envoy has no statistic that ends in {name}"
        return sum(int(value) for value in values)

    return read


@dataclass
class Load:
    """Clients that ask at an even pace, so that what is measured beside them has the machine too."""

    lab: Lab
    choose: Callable[[], str]
    every_s: float
    answers: list[tuple[str, HttpAnswer | OSError]] = field(default_factory=list)
    """The country that was asked for, and what came of it."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        for tunnel in cycle((True, False)):
            if self.stopped.wait(self.every_s):
                return
            country = self.choose()
            try:
                self.answers.append((country, self.lab.request(country, tunnel=tunnel)))
            except OSError as error:
                self.answers.append((country, error))

    def other_than(self, *statuses: int) -> list[tuple[str, str]]:
        """The answers with another status, and the requests without an answer."""
        return [
            (country, str(getattr(answer, "text", answer)))
            for country, answer in [*self.answers]
            if getattr(answer, "status", None) not in statuses
        ]

    def sources(self) -> dict[str, set[str]]:
        """From where the page was reached, by the country asked for."""
        found: dict[str, set[str]] = {}
        for country, answer in [*self.answers]:
            if getattr(answer, "status", None) == 200:
                found.setdefault(country, set()).add(answer.json()["source"])
        return found


@pytest.fixture
def loading(lab: Lab) -> Callable[..., object]:
    """`with loading(choose) as load`: three clients that ask for what `choose()` says, some 20 requests a second each."""

    @contextmanager
    def load(choose: Callable[[], str], *, clients: int = 3, every_s: float = 0.05) -> Iterator[Load]:
        made = Load(lab, choose, every_s)
        with ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(made.run) for _ in range(clients)]
            try:
                yield made
            finally:
                made.stopped.set()
            for future in futures:
                future.result()

    return load
