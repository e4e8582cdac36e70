"""Aggregate clusters of a real gateway, which fall back from one pool to the next."""

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
from tests.envoy.envoy_process import BOUND_S
from tests.envoy.static_gateway import exits, fetch, running, static_fleet, unused_port

pytestmark = [pytest.mark.envoy, pytest.mark.slow]
FLEET = UUID(int=1)


def make_pool(number: int, name: str) -> Pool:
    return Pool(UUID(int=10 + number), FLEET, name, name)


ALIVE, ALIVE_TOO = make_pool(1, "alive"), make_pool(2, "alive-too")
EMPTY, EMPTY_TOO, EMPTY_AS_WELL = make_pool(3, "empty"), make_pool(4, "empty-too"), make_pool(5, "empty-as-well")
DEAD, DEAD_TOO = make_pool(6, "dead"), make_pool(7, "dead-too")
"""Pools whose exits are dead."""
RESETTING = make_pool(8, "resetting")
"""A pool whose exit resets the connection after the request."""
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
"""Route actions by the country that requests them."""
Ask = Callable[..., Counter]


@dataclass
class ResettingExit:
    """An exit that reads the head of a request and resets the connection."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    """Methods of the requests received."""

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
                # closing without lingering sends RST
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def resetting_exit() -> Iterator[ResettingExit]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = ResettingExit(listening.getsockname()[1])
        thread = threading.Thread(target=made.serve, args=(listening,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(BOUND_S)


@pytest.fixture(scope="module")
def resetting() -> Iterator[ResettingExit]:
    with resetting_exit() as made:
        yield made


@pytest.fixture(scope="module")
def ask(resetting, tmp_path_factory) -> Iterator[Ask]:
    """`ask(action)` sends requests for one of ACTIONS and counts the replies."""
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


def test_pools_share_by_weight(ask):
    answered = ask("shared", times=400)
    assert {*answered} == {served_by(ALIVE), served_by(ALIVE_TOO)}
    assert 240 < answered[served_by(ALIVE)] < 360


def test_pool_without_exits_passes_share_to_next(ask):
    assert ask("halfempty") == {served_by(ALIVE): 40}


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
def test_pool_with_dead_exit_fails_no_request(ask, method):
    """Nothing was sent yet, so the request is retried at the fallback."""
    assert ask("justdied", method) == {served_by(ALIVE): 40}


def test_fallback_pools_are_used_in_order(ask):
    assert ask("inorder") == {served_by(ALIVE_TOO): 40}


def test_fallback_is_not_used_while_pool_is_healthy(ask):
    assert ask("well") == {served_by(ALIVE): 40}


def test_client_gets_error_when_no_pool_has_exits(ask):
    ((status, words),) = ask("allempty", times=4)
    assert status == 503
    assert words == "exitplane: no exit of pool empty, empty-too can carry this request now (UH)\n"


def test_client_gets_error_when_all_exits_are_dead(ask):
    ((status, words),) = ask("alldead", times=1)
    assert (status, "exitplane" in words) == (503, True)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_safe_request_is_retried_after_reset(ask, resetting, method):
    resetting.asked.clear()
    assert ask("reset", method, times=1) == {served_by(ALIVE): 1}
    assert {*resetting.asked} == {method}


def test_post_is_not_retried_after_reset(ask, resetting):
    """The target may have processed it before the reset."""
    resetting.asked.clear()
    ((status, words),) = ask("reset", "POST", times=1)
    assert (status, "exitplane" in words) == (503, True)
    assert resetting.asked == ["POST"]
