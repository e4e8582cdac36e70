"""The end of CONNECTs that a parent proxy never answers, on real sockets of this process."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from agent.config.status import HealthState, StatusBoard
from agent.envoy.stalled_connects import end_stalled_connects, find_stalled
from model.endpoint import Endpoint
from tests.tasks import running

LISTING = """
0 0 10.0.0.2:41000 10.0.0.3:8888 users:(("envoy",pid=7,fd=40)) cubic bytes_sent:99 bytes_acked:100
0 0 10.0.0.2:41001 10.0.0.3:8888 users:(("envoy",pid=7,fd=41)) cubic bytes_sent:99 bytes_received:39
0 0 10.0.0.2:41002 10.0.0.3:8888 users:(("python3",pid=77,fd=9)) cubic bytes_sent:99
0 0 [fd00::2]:41003 [fd00::3]:8888 users:(("a b",pid=7,fd=42),("a b",pid=8,fd=42)) cubic
0 0 10.0.0.2:41004 10.0.0.3:8888
"""


def test_find_stalled_returns_silent_connections_of_process():
    assert list(find_stalled(LISTING, 7)) == [
        ("10.0.0.2:41000", "10.0.0.3:8888"),
        ("[fd00::2]:41003", "[fd00::3]:8888"),
    ]


@pytest.fixture
def parent():
    """The endpoint of a listening socket, an answered connection and an unanswered one."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        endpoint = Endpoint(*listening.getsockname())
        open_ = []
        for answer in (b"HTTP/1.1 200 OK\r\n", b""):
            mine = stack.enter_context(socket.create_connection((endpoint.host, endpoint.port)))
            theirs, _ = listening.accept()
            stack.enter_context(theirs)
            mine.sendall(b"CONNECT a:1 HTTP/1.1\r\n")
            theirs.sendall(answer)
            open_.append(mine)
        yield endpoint, *open_


def is_reset(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="ending a connection takes CAP_NET_ADMIN")
async def test_down_tunnel_resets_unanswered_connections_only(parent, until):
    endpoint, answered, waiting = parent
    board = StatusBoard()
    board.update(tunnel=HealthState.UP)
    async with running(end_stalled_connects(endpoint, board, SimpleNamespace(pid=os.getpid()))):
        await asyncio.sleep(0)
        assert not is_reset(waiting)

        board.update(tunnel=HealthState.DOWN, reason="the parent proxy does not answer in time")
        await until(lambda: is_reset(waiting))
    answered.sendall(b"GET / HTTP/1.1\r\n")
    assert not is_reset(answered)
