"""What a parent proxy leaves unanswered, on real sockets of this process."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from agent.config.status import HealthState, StatusBoard
from agent.envoy.stalled_connects import end_unanswered, unheard
from model.endpoint import Endpoint
from tests.tasks import running

LISTED = """
0 0 10.0.0.2:41000 10.0.0.3:8888 users:(("envoy",pid=7,fd=40)) cubic bytes_sent:99 bytes_acked:100
0 0 10.0.0.2:41001 10.0.0.3:8888 users:(("envoy",pid=7,fd=41)) cubic bytes_sent:99 bytes_received:39
0 0 10.0.0.2:41002 10.0.0.3:8888 users:(("python3",pid=77,fd=9)) cubic bytes_sent:99
0 0 [fd00::2]:41003 [fd00::3]:8888 users:(("a b",pid=7,fd=42),("a b",pid=8,fd=42)) cubic
0 0 10.0.0.2:41004 10.0.0.3:8888
"""


def test_envoys_connections_by_which_nothing_came_are_found_and_nobody_elses():
    assert list(unheard(LISTED, 7)) == [
        ("10.0.0.2:41000", "10.0.0.3:8888"),
        ("[fd00::2]:41003", "[fd00::3]:8888"),
    ]


@pytest.fixture
def parent():
    """A listening socket, and what connects to it: a connection that was answered and one that was not."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        place = Endpoint(*listening.getsockname())
        open_ = []
        for answer in (b"HTTP/1.1 200 OK\r\n", b""):
            mine = stack.enter_context(socket.create_connection((place.host, place.port)))
            theirs, _ = listening.accept()
            stack.enter_context(theirs)
            mine.sendall(b"CONNECT a:1 HTTP/1.1\r\n")
            theirs.sendall(answer)
            open_.append(mine)
        yield place, *open_


def is_reset(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="ending a connection takes CAP_NET_ADMIN")
async def test_while_the_tunnel_is_down_what_waits_is_ended_and_what_was_answered_goes_on(parent, until):
    place, answered, waiting = parent
    board = StatusBoard()
    board.update(tunnel=HealthState.UP)
    async with running(end_unanswered(place, board, SimpleNamespace(pid=os.getpid()))):
        await asyncio.sleep(0)
        assert not is_reset(waiting)

        board.update(tunnel=HealthState.DOWN, reason="the parent proxy does not answer in time")
        await until(lambda: is_reset(waiting))
    answered.sendall(b"GET / HTTP/1.1\r\n")
    assert not is_reset(answered)
