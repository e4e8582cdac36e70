"""Tests of `exitplane drain`, `enable`, `disable` and `history`."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import update

from api.features.exits.schemas import ExitIn
from api.features.fleets.schemas import FirstListenerIn, FleetIn
from api.features.pools.schemas import PoolIn
from model.tables import ExitRow

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
async def exits(api):
    await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
    await api.pools.create(PoolIn(name="us", fleet="demo", country="us"))
    for name in ("us-1", "us-2"):
        await api.exits.create(ExitIn(name=name, fleet="demo", pool="us", address="192.0.2.1", port=8443))


async def test_drain_disable_and_enable_take_names_of_exits(exitplane):
    done = await exitplane("drain", "us-1", "us-2")
    assert (done.status, done.out) == (
        0,
        "us-1 is draining: drained by an operator\nus-2 is draining: drained by an operator\n",
    )
    assert (await exitplane("disable", "us-1")).out == "us-1 is disabled: disabled by an operator\n"
    done = await exitplane("enable", "us-1", "--fleet", "demo", "--json")
    assert [(each["name"], each["state"]) for each in json.loads(done.out)] == [("us-1", "registering")]


async def test_impossible_switch_is_refused_with_its_hint(exitplane):
    for arguments in (("drain", "nowhere"), ("history", "nowhere")):
        done = await exitplane(*arguments)
        assert (done.status, done.out, len(done.err.splitlines())) == (1, "", 1)
    await exitplane("disable", "us-1")
    refused = await exitplane("drain", "us-1")
    assert (refused.status, "enable it" in refused.err) == (1, True)


async def test_history_prints_a_table_and_a_summary(exitplane):
    await exitplane("drain", "us-1")
    done = await exitplane("history", "us-1", "--hours", "2")
    assert done.status == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[-5] for line in lines[1:3]] == ["draining", "registering"]
    assert lines[-1] == ["before:", "no", "data"]
    found = json.loads((await exitplane("history", "us-1", "--json")).out)
    assert [period["state"] for period in found["states"]] == ["draining", "registering"]


async def test_markup_and_escapes_of_an_exit_are_shown_as_text(exitplane, database):
    async with database.session() as session:
        said = "[/b] [link=http://evil.example]see[/link] \x1b[2J\u202egnp"
        await session.execute(update(ExitRow).values(state="lost", state_reason=said))
    shown = "[/b] [link=http://evil.example]see[/link] \ufffd[2J\ufffdgnp"
    for arguments in (("status",), ("get", "exits"), ("history", "us-1")):
        done = await exitplane(*arguments)
        assert (done.status, shown in done.out) == (0, True), done
