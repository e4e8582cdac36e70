"""Bounds of connections: who is closed, why, and that a new connection always gets in while any waits."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from model.client_address import client_network, unmapped
from model.connection_table import BURST_GAP_S, CloseReason, ConnectionLimits, ConnectionTable


class Time:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def now():
    return Time()


def make(now=Time(), **limits):  # noqa: B008 - it never moves
    return ConnectionTable("test", ConnectionLimits(**limits), now)


def test_longest_waiting_connection_makes_room():
    table = make(total=2)
    assert [table.add(each, f"192.0.2.{each}") for each in (1, 2, 3)] == [[], [], [1]]
    assert (table.open, table.waiting, table.closed) == (2, 2, Counter({CloseReason.TOO_MANY: 1}))


def test_crowding_address_loses_its_own_connection():
    """However fast it opens connections, that of another address keeps its place."""
    table = make(total=10)
    table.add("patient", "192.0.2.1")
    closed = [key for each in range(1_000) for key in table.add(each, "192.0.2.9")]
    assert closed == [*range(991)]
    assert table.open == 10


def test_authenticated_connection_is_not_closed():
    table = make(total=2)
    table.add(1, "192.0.2.1")
    table.serve(1)
    assert [table.add(each, "192.0.2.2") for each in (2, 3, 4)] == [[], [2], [3]]


def test_new_connection_is_refused_when_none_waits():
    table = make(total=2)
    for each in (1, 2):
        table.add(each, "192.0.2.1")
        table.serve(each)
    assert table.add(3, "192.0.2.2") == [3]
    assert table.open == 2


def test_address_with_too_many_loses_its_own_connection():
    table = make(total=100, waiting_per_address=2)
    table.add(1, "192.0.2.1")
    assert [table.add(each, "192.0.2.9") for each in (2, 3, 4)] == [[], [], [2]]
    assert table.closed == {CloseReason.TOO_MANY_OF_ADDRESS: 1}


def test_authenticated_connections_do_not_count_for_their_address():
    table = make(waiting_per_address=1)
    for each in range(5):
        assert table.add(each, "192.0.2.1") == []
        table.serve(each)


def test_connections_of_a_trusted_proxy_are_not_counted():
    table = make(waiting_per_address=1, trusted=[ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")])
    for address in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"):
        assert [table.add((address, each), address) for each in range(3)] == [[], [], []]


def test_connection_is_overdue_once_and_from_its_last_request(now):
    table = make(now, wait_s=10)
    table.add(1, "192.0.2.1")
    table.add(2, "192.0.2.1")
    now.now = 9
    table.wait(1)
    assert table.overdue() == []
    now.now = 10
    assert table.overdue() == [2]
    assert table.overdue() == []
    table.serve(1)
    now.now = 100
    assert table.overdue() == []
    assert table.open == 1


def test_connection_that_ended_is_forgotten():
    table = make(total=1)
    table.add(1, "192.0.2.1")
    table.remove(1)
    for late in (table.serve, table.wait, table.remove):
        late(1)
    assert (table.add(2, "192.0.2.1"), table.open, table.waiting) == ([], 1, 1)


def test_burst_is_logged_once(now):
    table = make(now, total=1)
    with structlog.testing.capture_logs() as logs:
        for each in range(50):
            table.add(each, "192.0.2.1")
            now.now += 1
        assert len(logs) == 1
        now.now += BURST_GAP_S + 1
        table.add(50, "192.0.2.1")
    assert [each["event"] for each in logs] == ["connections.limited"] * 2
    assert (logs[0]["listener"], logs[0]["reason"], logs[0]["client"]) == ("test", "too_many", "192.0.2.1")


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_client_is_an_address_or_a_network(address, client):
    assert client_network(address) == client


def test_unmapped_address_has_no_prefix_and_no_zone():
    assert [*map(unmapped, ("192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0"))] == ["192.0.2.1", "192.0.2.1", "fe80::1"]


STEPS = st.lists(st.tuples(st.sampled_from(["add", "wait", "serve", "remove"]), st.integers(0, 9), st.integers(0, 2)))


@given(STEPS, st.integers(1, 5), st.integers(1, 3))
def test_bounds_hold_after_any_steps(steps, total, per_address):
    table, held, waits = make(total=total, waiting_per_address=per_address), {}, {}
    for step, key, address in steps:
        if step == "add":
            if key in held:
                continue
            held[key], waits[key] = address, True
            for closed in table.add(key, f"192.0.2.{address}"):
                assert waits.pop(closed)
                del held[closed]
        else:
            getattr(table, step)(key)
            if step == "remove":
                held.pop(key, None)
                waits.pop(key, None)
            elif key in held:
                waits[key] = step == "wait"
        assert (table.open, table.waiting) == (len(held), sum(waits.values()))
        assert table.open <= total
