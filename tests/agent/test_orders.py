"""What operators ask of an agent is done once, and told until it was heard."""

from __future__ import annotations

import asyncio

import pytest

from agent.config.status import StatusBoard
from agent.control.orders import OrderFailed, Orders


@pytest.fixture
def board() -> StatusBoard:
    return StatusBoard()


def order(id_="1", kind="measure", detail=None):
    return {"id": id_, "kind": kind, "detail": detail or {}}


async def settled(orders, board):
    while not orders.settled:
        await asyncio.wait_for(board.changed.wait(), 60)
    return orders.settled


async def test_an_order_is_done_once_though_it_is_said_again(board):
    done = []

    async def measure(detail):
        done.append(detail)
        return {"mbps": 7}

    orders = Orders(board, {"measure": measure})
    for _ in range(3):
        orders.take([order(detail={"way": "up"})])
    assert await settled(orders, board) == [{"id": "1", "outcome": {"mbps": 7}, "error": ""}]
    orders.take([order()])
    await orders.aclose()
    assert done == [{"way": "up"}]


async def test_what_came_of_it_is_told_until_it_was_heard(board):
    orders = Orders(board, {})
    orders.take([order("1"), order("2")])
    while len(orders.settled) < 2:
        await asyncio.wait_for(board.changed.wait(), 60)
    orders.heard(["1", "9"])
    assert [each["id"] for each in orders.settled] == ["2"]


async def test_an_order_that_wakes_nobody_would_wait_for_the_next_heartbeat(board):
    changed, orders = board.changed, Orders(board, {})
    orders.take([order()])
    await asyncio.wait_for(changed.wait(), 60)


async def test_an_agent_says_what_it_does_not_know(board):
    orders = Orders(board, {})
    orders.take([order(kind="dance")])
    (told,) = await settled(orders, board)
    assert told["outcome"] is None
    assert "does not know how to dance" in told["error"]


async def test_failures_are_told_and_end_nothing(board):
    async def refuse(_):
        raise OrderFailed("it has one server only", hint="give it another")

    async def break_(_):
        raise ZeroDivisionError

    async def last(_):
        await asyncio.Event().wait()

    orders = Orders(board, {"refuse": refuse, "break": break_, "last": last}, within_s=0.05)
    for kind in ("refuse", "break", "last"):
        orders.take([order(kind, kind)])
    while len(orders.settled) < 3:
        await asyncio.wait_for(board.changed.wait(), 60)
    told = {each["id"]: each["error"] for each in orders.settled}
    assert "it has one server only" in told["refuse"]
    assert "ZeroDivisionError" in told["break"]
    assert told["last"] == "it took longer than 0.05 s"


@pytest.mark.parametrize("said", [None, 7, {}, "x", [None], [{}], [{"id": 1, "kind": "a"}], [{"id": "1"}]])
async def test_what_is_no_order_is_left_alone(board, said):
    orders = Orders(board, {})
    orders.take(said)
    await orders.aclose()
    assert orders.settled == []


async def test_no_more_is_told_at_once_than_a_heartbeat_takes(board):
    orders = Orders(board, {})
    orders.take([order(str(number)) for number in range(20)])
    while board.report.settled < 20:
        await asyncio.wait_for(board.changed.wait(), 60)
    assert len(orders.settled) == 16
    orders.heard([each["id"] for each in orders.settled])
    assert len(orders.settled) == 4
