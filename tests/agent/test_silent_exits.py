"""The end of requests that an exit stopped answering, on real sockets of this process."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from agent.envoy.admin import Admin, AdminUnreachable
from agent.envoy.silent_exits import end_unanswered_requests, find_waiting
from tests.tasks import running

LISTING = """
0 0 10.0.0.2:41000 10.0.0.3:8443 users:(("envoy",pid=7,fd=20)) cubic bytes_sent:99 lastsnd:11000 lastrcv:12000 lastack:11000
0 0 10.0.0.2:41001 10.0.0.3:8443 users:(("envoy",pid=7,fd=20)) cubic bytes_sent:99 lastsnd:12000 lastrcv:11000 lastack:11000
0 0 10.0.0.2:41002 10.0.0.3:8443 users:(("envoy",pid=7,fd=20)) cubic bytes_sent:99 lastsnd:2000 lastrcv:9999 lastack:11000
0 0 [fd00::2]:41003 [fd00::3]:8443 users:(("envoy",pid=7,fd=20)) cubic bytes_sent:99 lastrcv:12000 lastack:11000
0 0 10.0.0.2:41004 10.0.0.3:8443 users:(("envoy",pid=7,fd=20)) cubic bytes_sent:99 lastsnd:12000 lastack:11000
0 0 10.0.0.2:41005 10.0.0.3:8443
0 0 10.0.0.2:41006 10.0.0.3:8443 users:(("envoy",pid=77,fd=20)) cubic bytes_sent:99 lastsnd:11000 lastrcv:12000
"""


def test_find_waiting_returns_connections_that_wait_for_an_answer():
    """The others were answered, sent their last bytes too recently, receive at this moment, or are another process's."""
    assert list(find_waiting(LISTING, 7, 10)) == [
        ("10.0.0.2:41000", "10.0.0.3:8443"),
        ("[fd00::2]:41003", "[fd00::3]:8443"),
    ]


POOL = "pool/00000000-0000-0000-0000-000000000007"
CLUSTERS = f"""\
{POOL}::default_priority::max_connections::1000000
{POOL}::10.0.0.3:8443::cx_active::4
{POOL}::10.0.0.3:8443::health_flags::/failed_active_hc/active_hc_timeout
{POOL}::10.0.0.4:8443::health_flags::healthy
{POOL}::10.0.0.5:8443::health_flags::/failed_active_hc
{POOL}::[fd00::3]:8443::health_flags::/failed_active_hc/active_hc_timeout
"""


@pytest.mark.parametrize(("healthy", "silent"), [(2, {"10.0.0.3:8443", "[fd00::3]:8443"}), (4, set())])
async def test_silent_exits_are_those_whose_checks_time_out(monkeypatch, healthy, silent):
    """While all exits are healthy, their long list is not read."""

    async def answer(_self, _method, path):
        counts = {"healthy": healthy, "degraded": 1, "total": 5}
        stats = "".join(f"cluster.{POOL}.membership_{kind}: {count}\n" for kind, count in counts.items())
        return stats if path.startswith("/stats") else CLUSTERS

    monkeypatch.setattr(Admin, "_request", answer)
    assert await Admin(None).list_silent_exits() == silent


@pytest.fixture
def exit_():
    """The address of a listening socket, an answered connection and one that waits for an answer."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        host, port = listening.getsockname()
        open_ = []
        for answers in (True, False):
            mine = stack.enter_context(socket.create_connection((host, port)))
            theirs, _ = listening.accept()
            stack.enter_context(theirs)
            theirs.sendall(b"handshake")
            open_.append((mine, theirs, answers))
        yield f"{host}:{port}", open_


def is_reset(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="ending a connection takes CAP_NET_ADMIN")
async def test_silent_exit_resets_waiting_connections_only(exit_, until):
    address, open_ = exit_
    silent: set[str] = set()
    polls = []

    class Listed:
        async def list_silent_exits(self) -> frozenset[str]:
            polls.append(silent)
            if not silent:
                raise AdminUnreachable("not yet")
            return frozenset(silent)

    for mine, theirs, answers in open_:
        await asyncio.sleep(0.01)  # `ss` counts milliseconds: an answer has to be later than its request
        mine.sendall(b"CONNECT a:1 HTTP/1.1\r\n\r\n")
        if answers:
            await asyncio.sleep(0.01)
            theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    (answered, *_), (waiting, *_) = open_
    async with running(
        end_unanswered_requests(SimpleNamespace(admin=Listed(), pid=os.getpid()), period_s=0.01, silent_s=0.05)
    ):
        await until(lambda: len(polls) > 5)
        assert not is_reset(waiting)
        silent.add(address)
        await until(lambda: is_reset(waiting))
    assert not is_reset(answered)
