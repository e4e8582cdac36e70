"""A seeded run of changes, with the stream cut after each message of each change: Envoy always gets on by itself.

A change travels over a settled stream to a model of Envoy. The stream is cut after its first message, in another play of the
same change after its second one, and so on; what was on its way is lost, and Envoy connects to a new stream. At every step each
route in use names clusters in use; at the end nothing warms, and Envoy uses what it should. Each replica remembers the clusters that
were removed lately, also those that this Envoy never had.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, member
from itertools import count
from uuid import UUID

import pytest

from tests.protocol.envoy_model import CHECKED, EnvoyModel, Request
from tests.protocol.stream_client import (
    DELTA,
    IDENTITY,
    SOTW,
    ParsedResponse,
    differences,
    parse,
    resource_of,
    view_of,
)
from tests.scale import at_night, scaled
from xds.protocol.messages import Variant
from xds.protocol.stream import Send, XdsStream
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView
from xds.translate.names import CLUSTER, ENDPOINT, GATEWAY_LISTENER, GATEWAY_ROUTES, LISTENER, POOL_PREFIX, ROUTE

CHANGES = 300 if at_night() else 20
SEEDS = range(1, scaled(1) + 1)
GRACE_S = 5.0
MOST_STEPS = 1_000
REMEMBERED = 5
"""Removed clusters that a replica remembers."""
Tables = dict[str, dict[str, str]]


class ChangingWorld:
    """A seeded source of changes to pools (a cluster and its endpoints), routes and listeners, with the names of the product.

    As there, all listeners of a gateway use one route configuration, which names the clusters.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._numbers = count(1)
        self.tables: Tables = {
            CLUSTER: {},
            ENDPOINT: {},
            ROUTE: {GATEWAY_ROUTES: self._new()},
            LISTENER: {GATEWAY_LISTENER: f"{self._new()} {GATEWAY_ROUTES}"},
        }
        for _ in range(3):
            self._add_pool()

    def change(self) -> tuple[str, Tables]:
        """Make one to three changes, and return their names with the new contents."""
        self.tables = {type_url: {**contents} for type_url, contents in self.tables.items()}
        acts = [
            *(self._add_pool, self._remove_pool, self._replace_pool, self._change_pool, self._change_exits),
            *(self._change_route, self._change_all, self._set_listener, self._set_listener, self._remove_listener),
        ]
        done = self._random.choices(acts, k=self._random.choice([1, 1, 2, 3]))
        for act in done:
            act()
        return " + ".join(act.__name__.strip("_") for act in done), self.tables

    def _new(self) -> str:
        return f"v{next(self._numbers)}"

    def _pick(self, type_url: str) -> str:
        return self._random.choice(sorted(self.tables[type_url]))

    def _add_pool(self) -> None:
        name = f"{POOL_PREFIX}{UUID(int=next(self._numbers))}"
        self.tables[ENDPOINT][name] = self._new()
        self._make_cluster(name)
        self._change_route()

    def _make_cluster(self, name: str) -> None:
        checked = [CHECKED] if self._random.random() < 0.3 else []
        self.tables[CLUSTER][name] = " ".join([self._new(), *checked])

    def _remove_pool(self) -> None:
        if len(self.tables[CLUSTER]) > 1:
            name = self._pick(CLUSTER)
            del self.tables[CLUSTER][name], self.tables[ENDPOINT][name]
            self._change_route()

    def _replace_pool(self) -> None:
        self._add_pool()
        self._remove_pool()

    def _change_pool(self) -> None:
        self._make_cluster(self._pick(CLUSTER))

    def _change_exits(self) -> None:
        self.tables[ENDPOINT][self._pick(ENDPOINT)] = self._new()

    def _change_route(self) -> None:
        self.tables[ROUTE][GATEWAY_ROUTES] = " ".join([self._new(), *sorted(self.tables[CLUSTER])])

    def _change_all(self) -> None:
        """Change a pool and all that refers to it."""
        self._change_pool()
        self._change_exits()
        self._change_route()

    def _set_listener(self) -> None:
        """Add a listener, or change it."""
        name = self._random.choice([GATEWAY_LISTENER, *(f"{GATEWAY_LISTENER}/{number}" for number in range(2))])
        self.tables[LISTENER][name] = f"{self._new()} {GATEWAY_ROUTES}"

    def _remove_listener(self) -> None:
        if len(self.tables[LISTENER]) > 1:
            del self.tables[LISTENER][self._pick(LISTENER)]


@dataclass
class CutConnection:
    """Both ends of a stream and the messages between them, delivered in a seeded order."""

    envoy: EnvoyModel
    tables: Tables
    chance: random.Random
    removed: dict[str, str] = field(default_factory=dict)
    """Contents of the clusters that the server's replica knows to have been removed lately, by name."""
    now: float = 0.0
    revision: int = 1
    history: list[tuple[str, object]] = field(default_factory=list)
    """Everything that happened, for people: messages to the server (>), to Envoy (<), and the rest."""
    broken: set[str] = field(default_factory=set)
    """Clusters that were missing while a route in use named them."""
    _requests: deque[Request] = field(default_factory=deque)
    _responses: deque[ParsedResponse] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        """Cut the stream, lose what is on its way, and open another one."""
        self.history.append(("--", "new stream"))
        self._requests.clear()
        self._responses.clear()
        view = view_of(self.tables, self.revision)
        former = self._former_clusters
        self.stream = XdsStream(self.envoy.variant, IDENTITY, view, removal_grace_s=GRACE_S, former_clusters=former)
        self._requests += self.envoy.connect()

    def publish(self, tables: Tables) -> None:
        changed, self.revision = differences(self.tables, tables), self.revision + 1
        removed = {name: self.tables[CLUSTER][name] for name in self.tables[CLUSTER].keys() - tables[CLUSTER].keys()}
        self.removed = dict([*self.removed.items(), *removed.items()][-REMEMBERED:])
        self.tables = tables
        self._send(self.stream.publish(view_of(tables, self.revision), changed, self.now))

    def run(self, messages: int = MOST_STEPS) -> int:
        """Deliver up to this many messages, until all is quiet. Return how many were left to deliver."""
        for left in range(messages, 0, -1):
            if not self._step():
                return left
            if missing := self.envoy.dangling():
                self.broken |= missing
                self.history.append(("!!", f"a route in use names {sorted(missing)}"))
        assert messages < MOST_STEPS, "the stream does not become quiet"
        return 0

    def _step(self) -> bool:
        """Deliver one message, or let a health check answer, or time pass. Return False if nothing is left to happen."""
        ways = []
        if self._requests:
            ways.append(self._deliver_request)
        if self._responses:
            ways.append(self._deliver_response)
        if self.envoy.checking:
            ways.append(self._finish_check)
        if self.stream.wake_at is not None and not self._requests:  # Envoy's requests take no time
            soon = self.stream.wake_at <= self.now + GRACE_S and self.chance.random() < 0.1
            if soon or not ways:
                ways = [self._let_time_pass]
        if ways:
            self.chance.choice(ways)()
        return bool(ways)

    def _deliver_request(self) -> None:
        request = self._requests.popleft()
        self.history.append((">", request))
        self._send(self.stream.receive(request.SerializeToString(), self.now))

    def _deliver_response(self) -> None:
        response = self._responses.popleft()
        self.history.append(("<", response))
        self._requests += self.envoy.receive(response)

    def _finish_check(self) -> None:
        name = self.chance.choice(sorted(self.envoy.checking))
        self.history.append(("--", f"{name} is checked"))
        self._requests += self.envoy.finish_check(name)

    def _let_time_pass(self) -> None:
        self.history.append(("--", f"it is {self.stream.wake_at:g} s"))
        self.now = max(self.now, self.stream.wake_at)
        self._send(self.stream.wake(self.now))

    def _former_clusters(self, view: ProxyView, _: str) -> list[Resource]:
        gone = self.removed.keys() - view.names(CLUSTER)
        return [resource_of(CLUSTER, name, self.removed[name]) for name in sorted(gone)]

    def _send(self, actions) -> None:
        self._responses += [parse(self.envoy.variant, action) for action in actions if isinstance(action, Send)]

    def problems(self) -> list[str]:
        broken = [f"routes in use named {sorted(self.broken)}, which were missing"] if self.broken else []
        return [*broken, *self.envoy.problems(self.tables)]


def reconnect(played: CutConnection, *_: object) -> None:
    """Connect to a replica that knows the change."""
    played.connect()


def cut_again(played: CutConnection, *_: object) -> None:
    """Cut the next stream too, after some messages."""
    played.connect()
    played.run(played.chance.randrange(1, 12))
    played.connect()


def find_replica_behind(played: CutConnection, before: Tables, after: Tables, removed: dict[str, str]) -> None:
    """Connect to a replica that has not read the change yet.

    In state of the world it reads the change before it reads the first request (`WorldWatcher.catch_up`), in delta after some
    messages.
    """
    played.tables, played.removed = before, {**removed}
    played.connect()
    if played.envoy.variant is DELTA:
        played.run(played.chance.randrange(12))
    played.publish(after)


class Recovery(Enum):
    """The events after a cut."""

    PLAIN = member(reconnect)
    TWICE = member(cut_again)
    BEHIND = member(find_replica_behind)


@dataclass
class CutSweep:
    """A run of changes in one variant, in which each change is played once for each of its cut points."""

    variant: Variant
    seed: int
    points: int = 0
    found: dict[str, list[str]] = field(default_factory=dict)
    """Problems by change and cut point."""

    def run(self, changes: int, recovery: Recovery = Recovery.PLAIN) -> None:
        """Play changes at all cut points."""
        world, envoy = ChangingWorld(self.seed), EnvoyModel(self.variant)
        first, removed = CutConnection(envoy, world.tables, random.Random(self.seed)), dict[str, str]()
        first.run()
        assert first.problems() == []
        for number in range(changes):
            before, (what, after) = world.tables, world.change()
            for cut in count():
                chance = random.Random(f"{self.seed} {number}")
                played = CutConnection(copy.deepcopy(envoy), before, chance, {**removed})
                played.run()
                played.history.clear()
                played.publish(after)
                left = played.run(cut) if cut else 0
                whole = left > 0
                if not whole:
                    self.points += 1
                    recovery.value(played, before, after, removed)
                    played.run()
                if problems := played.problems():
                    happened = (f"{sign} {' '.join(str(each).split())}" for sign, each in played.history)
                    self.found[f"seed {self.seed}, change {number} ({what}), cut {cut}"] = [*problems, *happened]
                if whole:
                    envoy, removed = played.envoy, played.removed
                    break

    def __str__(self) -> str:
        first = next(iter(self.found.items()), ("none", []))
        return "\n  ".join([f"{len(self.found)} of {self.points} cut points, first {first[0]}:", *first[1]])


@pytest.mark.parametrize("recovery", Recovery)
@pytest.mark.parametrize("variant", [SOTW, DELTA])
def test_cut_at_any_message_breaks_and_stalls_nothing(variant, recovery):
    for seed in SEEDS:
        sweep = CutSweep(variant, seed)
        sweep.run(CHANGES, recovery)
        assert sweep.points > 4 * CHANGES
        assert not sweep.found, str(sweep)
