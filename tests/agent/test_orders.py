"""Orders: carried out once, and reported until the report is delivered."""

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


async def wait_for_outcomes(orders, board):
    while not orders.outcomes:
        await asyncio.wait_for(board.changed.wait(), 60)
    return orders.outcomes


async def test_repeated_order_is_carried_out_once(board):
    done = []

    async def measure(detail):
        done.append(detail)
        return {"mbps": 7}

    orders = Orders(board, {"measure": measure})
    for _ in range(3):
        orders.start_new([order(detail={"way": "up"})])
    assert await wait_for_outcomes(orders, board) == [{"id": "1", "outcome": {"mbps": 7}, "error": ""}]
    orders.start_new([order()])
    await orders.aclose()
    assert done == [{"way": "up"}]


async def test_outcome_is_reported_until_forgotten(board):
    orders = Orders(board, {})
    orders.start_new([order("1"), order("2")])
    while len(orders.outcomes) < 2:
        await asyncio.wait_for(board.changed.wait(), 60)
    orders.forget(["1", "9"])
    assert [each["id"] for each in orders.outcomes] == ["2"]


async def test_finished_order_changes_status_at_once(board):
    changed, orders = board.changed, Orders(board, {})
    orders.start_new([order()])
    await asyncio.wait_for(changed.wait(), 60)


async def test_unknown_order_fails_with_reason(board):
    orders = Orders(board, {})
    orders.start_new([order(kind="dance")])
    (outcome,) = await wait_for_outcomes(orders, board)
    assert outcome["outcome"] is None
    assert "cannot carry out 'dance'" in outcome["error"]


async def test_failed_orders_are_reported(board):
    async def refuse(_):
        raise OrderFailed("it has one server only", hint="give it another")

    async def break_(_):
        raise ZeroDivisionError

    async def last(_):
        await asyncio.Event().wait()

    orders = Orders(board, {"refuse": refuse, "break": break_, "last": last}, timeout_s=0.05)
    for kind in ("refuse", "break", "last"):
        orders.start_new([order(kind, kind)])
    while len(orders.outcomes) < 3:
        await asyncio.wait_for(board.changed.wait(), 60)
    errors = {each["id"]: each["error"] for each in orders.outcomes}
    assert "it has one server only" in errors["refuse"]
    assert "ZeroDivisionError" in errors["break"]
    assert errors["last"] == "it took longer than 0.05 s"


@pytest.mark.parametrize("value", [None, 7, {}, "x", [None], [{}], [{"id": 1, "kind": "a"}], [{"id": "1"}]])
async def test_invalid_orders_are_ignored(board, value):
    orders = Orders(board, {})
    orders.start_new(value)
    await orders.aclose()
    assert orders.outcomes == []


async def test_heartbeat_reports_at_most_16_outcomes(board):
    orders = Orders(board, {})
    orders.start_new([order(str(number)) for number in range(20)])
    while board.report.orders_settled < 20:
        await asyncio.wait_for(board.changed.wait(), 60)
    assert len(orders.outcomes) == 16
    orders.forget([each["id"] for each in orders.outcomes])
    assert len(orders.outcomes) == 4
