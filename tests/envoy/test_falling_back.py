"""What a real gateway makes of clusters that go on from one pool to the next."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from model.entities import Fleet, Listener, Match, Pool, Route, ToPools
from model.world import World, put
from tests.envoy.gateways import exits, fetch, running, static_fleet, unused_port
from tests.envoy.processes import BOUND_S

pytestmark = pytest.mark.envoy
FLEET = UUID(int=1)


def make_pool(number: int, name: str) -> Pool:
    return Pool(UUID(int=10 + number), FLEET, name, name)


ALIVE, ALIVE_TOO = make_pool(1, "alive"), make_pool(2, "alive-too")
EMPTY, EMPTY_TOO, EMPTY_AS_WELL = make_pool(3, "empty"), make_pool(4, "empty-too"), make_pool(5, "empty-as-well")
DEAD, DEAD_TOO = make_pool(6, "dead"), make_pool(7, "dead-too")
"""Nobody listens at their exits any more."""
RESETTING = make_pool(8, "resetting")
"""Its exit resets the connection once it has the request."""
POOLS = (ALIVE, ALIVE_TOO, EMPTY, EMPTY_TOO, EMPTY_AS_WELL, DEAD, DEAD_TOO, RESETTING)
ACTIONS = {
    "shared": ToPools(((ALIVE.id, 3), (ALIVE_TOO.id, 1))),
    "halfempty": ToPools(((EMPTY.id, 1), (ALIVE.id, 1)), (ALIVE_TOO.id,)),
    "justdied": ToPools(((DEAD.id, 1),), (ALIVE.id,)),
    "inorder": ToPools(((EMPTY.id, 1),), (ALIVE_TOO.id, ALIVE.id)),
    "well": ToPools(((ALIVE.id, 1),), (ALIVE_TOO.id,)),
    "allempty": ToPools(((EMPTY.id, 1), (EMPTY_TOO.id, 1)), (EMPTY_AS_WELL.id,)),
    "alldead": ToPools(((DEAD.id, 1),), (DEAD_TOO.id,)),
    "reset": ToPools(((RESETTING.id, 1),), (ALIVE.id,)),
}
"""What is asked of the gateway, each by a country of its own."""
Ask = Callable[..., Counter]


@dataclass
class Resetting:
    """An exit that reads the head of a request and resets the connection."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    """The methods of the requests that it read."""

    def serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection = listening.accept()[0]
            except OSError:
                return
            with connection:
                connection.settimeout(BOUND_S)
                head = b""
                while b"\r\n\r\n" not in head and (more := connection.recv(4096)):
                    head += more
                if head:
                    self.asked.append(head.split()[0].decode())
                # to close without lingering is to reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def resetting_exit() -> Iterator[Resetting]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Resetting(listening.getsockname()[1])
        thread = threading.Thread(target=made.serve, args=(listening,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(BOUND_S)


@pytest.fixture(scope="module")
def resetting() -> Iterator[Resetting]:
    with resetting_exit() as made:
        yield made


@pytest.fixture(scope="module")
def ask(resetting, tmp_path_factory) -> Iterator[Ask]:
    """`ask(action)`: how often which answer comes to requests that one of ACTIONS applies to."""
    folder = tmp_path_factory.mktemp("gateway")
    routes = [
        Route(
            UUID(int=21 + place),
            FLEET,
            name,
            place,
            enabled=True,
            match=Match(countries=frozenset({name})),
            action=action,
        )
        for place, (name, action) in enumerate(ACTIONS.items())
    ]
    listener = Listener(UUID(int=2), FLEET, "127.0.0.1", 0)
    world = World().changed(1, map(put, [Fleet(FLEET, "x"), listener, *POOLS, *routes]))
    with ExitStack() as stack:
        serving = stack.enter_context(exits(each.id for each in (ALIVE, ALIVE_TOO)))
        ports = {pool_id: [port] for pool_id, port in serving.items()} | {RESETTING.id: [resetting.port]}
        for pool in (DEAD, DEAD_TOO):
            hole, port = unused_port()
            stack.enter_context(hole)
            ports[pool.id] = [port]
        gateway = stack.enter_context(running(static_fleet(world, FLEET, folder, ports), folder))

        def count(action: str, method: str = "GET", times: int = 40) -> Counter:
            target = "example.com:443" if method == "CONNECT" else "http://example.com/"
            asked = [("exit-country", action)]
            return Counter(fetch(gateway.ports["clients"], target, asked, method) for _ in range(times))

        yield count


def served_by(pool: Pool) -> tuple[int, str]:
    return 200, str(pool.id)


@pytest.mark.slow
def test_pools_share_by_weight(ask):
    answered = ask("shared", times=400)
    assert {*answered} == {served_by(ALIVE), served_by(ALIVE_TOO)}
    assert 240 < answered[served_by(ALIVE)] < 360


def test_a_pool_without_exits_leaves_its_share_to_the_next(ask):
    assert ask("halfempty") == {served_by(ALIVE): 40}


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
def test_a_pool_whose_exit_just_died_fails_no_request(ask, method):
    """The fallback is tried again for the same request: nothing was sent yet."""
    assert ask("justdied", method) == {served_by(ALIVE): 40}


def test_the_fallback_is_used_in_order(ask):
    assert ask("inorder") == {served_by(ALIVE_TOO): 40}


def test_the_fallback_is_not_used_while_the_pool_lives(ask):
    assert ask("well") == {served_by(ALIVE): 40}


def test_when_no_pool_has_an_exit_the_client_is_told_so(ask):
    ((status, words),) = ask("allempty", times=4)
    assert status == 503
    assert words == "exitplane: no exit of pool empty, empty-too can carry this request now (UH)\n"


def test_when_all_exits_are_dead_the_client_is_told_so(ask):
    ((status, words),) = ask("alldead", times=1)
    assert (status, "exitplane" in words) == (503, True)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_request_that_changes_nothing_goes_on_after_a_reset(ask, resetting, method):
    resetting.asked.clear()
    assert ask("reset", method, times=1) == {served_by(ALIVE): 1}
    assert {*resetting.asked} == {method}


def test_a_post_that_was_reset_is_not_sent_again(ask, resetting):
    """The target may have acted on it before the connection broke."""
    resetting.asked.clear()
    ((status, words),) = ask("reset", "POST", times=1)
    assert (status, "exitplane" in words) == (503, True)
    assert resetting.asked == ["POST"]
