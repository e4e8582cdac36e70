"""Tests of `exitplane audit`."""

from __future__ import annotations

import functools
import json

import pytest
from sqlalchemy import text

from model.audit_log import Actor, AuditEntry, append


@pytest.fixture
def audit(command, database_url):
    return functools.partial(command, "audit", EXITPLANE_DATABASE_URL=database_url)


@pytest.fixture
async def entries(database):
    async with database.session() as session:
        await append(session, Actor(), [AuditEntry("created", "pool", str(number)) for number in range(3)])
        await append(session, Actor(), [AuditEntry("login", "operator")])
        return [tuple(row) for row in (await session.execute(text("SELECT sequence, hash FROM audit_event"))).all()]


@pytest.fixture
def tamper(database):
    async def run(statement):
        async with database.session() as session:
            await session.execute(text("ALTER TABLE audit_event DISABLE TRIGGER append_only"))
            await session.execute(text(statement))

    return run


async def test_verify_accepts_an_intact_chain(audit, entries):
    last = entries[-1][1]
    done = await audit("verify")
    assert (done.status, done.out, done.err) == (0, f"ok: 4 entries, the last is 4 with hash {last}\n", "")
    report = json.loads((await audit("verify", "--json")).out)
    assert report == {"ok": True, "count": 4, "end": {"sequence": 4, "hash": last}, "findings": []}


async def test_verify_names_tampered_entries_and_exits_with_1(audit, entries, tamper):
    await tamper("UPDATE audit_event SET action = 'x' WHERE sequence = 2")
    await tamper("DELETE FROM audit_event WHERE sequence = 4")
    done = await audit("verify")
    assert (done.status, done.out) == (
        1,
        "tampered: entry 2 is not what was written\ncut_off: entry 4 is cut off at the end\n",
    )
    report = await audit("verify", "--json")
    assert (report.status, json.loads(report.out)["ok"]) == (1, False)
    assert [(each["fault"], each["first"]) for each in json.loads(report.out)["findings"]] == [
        ("tampered", 2),
        ("cut_off", 4),
    ]


async def test_verify_compares_checkpoint_and_keeps_it_on_failure(audit, entries, tamper, database, tmp_path):
    path = tmp_path / "checkpoint.json"
    assert (await audit("verify", "--checkpoint", str(path))).status == 0
    assert json.loads(path.read_text()) == {"sequence": 4, "hash": entries[-1][1]}
    assert (await audit("verify", "--checkpoint", str(path))).status == 0
    await tamper("DELETE FROM audit_event")
    async with database.session() as session:
        await session.execute(text("UPDATE audit_head SET sequence = 0, hash = ''"))
        await append(session, Actor(), [AuditEntry("created", "pool", str(number)) for number in range(9)])
    assert (await audit("verify")).status == 0
    done = await audit("verify", "--checkpoint", str(path))
    assert (done.status, done.out) == (1, "rewritten: entry 4 is not the one of the checkpoint\n")
    assert json.loads(path.read_text())["hash"] == entries[-1][1]
    path.write_text("{}")
    done = await audit("verify", "--checkpoint", str(path))
    assert (done.status, str(path) in done.err) == (1, True)


async def test_export_prints_entries_as_json_lines_oldest_first(audit, entries):
    lines = [json.loads(line) for line in (await audit("export")).out.splitlines()]
    assert [(line["sequence"], line["hash"]) for line in lines] == entries
    only = [json.loads(line) for line in (await audit("export", "--kind", "operator")).out.splitlines()]
    assert [line["action"] for line in only] == ["login"]
    assert (await audit("export", "--until", "2020-01-01")).out == ""
    assert len((await audit("export", "--since", "2020-01-01", "--action", "created")).out.splitlines()) == 3
