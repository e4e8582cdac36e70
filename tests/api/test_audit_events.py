"""The audit events of the API, and verification of their hash chain."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from model.audit_log import Actor, AuditEntry, append, hash_of
from model.database import Database
from model.repositories.audit import ChainFault, Checkpoint, verify
from model.tables import AuditRow
from tests.scale import scaled

AUDIT = "/api/v1/audit-events"
CHANGE, MISS, MOVE, CUT, REWRITE = (
    ChainFault.TAMPERED,
    ChainFault.MISSING,
    ChainFault.OUT_OF_ORDER,
    ChainFault.CUT_OFF,
    ChainFault.REWRITTEN,
)


@pytest.fixture
def write(database):
    """`await write(count)`: append `count` entries."""

    async def run(count=1, **fields):
        async with database.session() as session:
            entries = [AuditEntry("changed", "pool", str(number), detail={"number": number}) for number in range(count)]
            await append(session, Actor(), [AuditEntry("created", "pool", **fields)] if fields else entries)

    return run


@pytest.fixture
def check(database):
    """`await check()`: the findings, as (fault, first, last)."""

    async def run(checkpoint=None):
        async with database.session() as session:
            verdict = await verify(session, checkpoint)
        return [(each.fault, each.first, each.last) for each in verdict.findings]

    return run


@pytest.fixture
def tamper(query):
    """`await tamper(*statements)`: run statements as the database owner, without the trigger."""

    async def run(*statements):
        await query("ALTER TABLE audit_event DISABLE TRIGGER append_only")
        for statement in statements:
            await query(statement)
        await query("ALTER TABLE audit_event ENABLE TRIGGER append_only")

    return run


# -- the chain ---------------------------------------------------------------------------------------------------------


async def test_untouched_chain_verifies_and_reports_its_end(database, write, query):
    async with database.session() as session:
        empty = await verify(session)
    assert (empty.ok, empty.count, empty.end) == (True, 0, Checkpoint(0, ""))
    await write(5)
    await write(4_100)  # more than one batch of the verification
    async with database.session() as session:
        verdict = await verify(session)
    (last,) = await query("SELECT sequence, hash FROM audit_event ORDER BY sequence DESC LIMIT 1")
    assert (verdict.ok, verdict.count, verdict.end) == (True, 4_105, Checkpoint(4_105, last["hash"]))


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_event SET action = 'x'", "DELETE FROM audit_event", "TRUNCATE audit_event"]
)
async def test_audit_entries_are_append_only(statement, write, query):
    await write()
    with pytest.raises(DBAPIError, match="append-only"):
        await query(statement)


@pytest.mark.parametrize(
    "change",
    [
        "at = at + interval '1 microsecond'",
        "actor_id = gen_random_uuid()",
        "api_key_id = gen_random_uuid()",
        "action = 'deleted'",
        "kind = 'exit'",
        "object_id = NULL",
        "fleet_id = gen_random_uuid()",
        """detail = '{"number": 7}'""",
        "previous = hash",
        "hash = previous",
    ],
)
async def test_changed_entry_is_reported(change, write, tamper, check):
    await write(5)
    await tamper(f"UPDATE audit_event SET {change} WHERE sequence = 3")
    assert await check() == [(CHANGE, 3, 3)]


async def test_change_of_first_and_last_entry_is_reported(write, tamper, check):
    await write(5)
    await tamper("UPDATE audit_event SET action = 'x' WHERE sequence IN (1, 5)")
    assert await check() == [(CHANGE, 1, 1), (CHANGE, 5, 5)]


@pytest.mark.parametrize(
    ("gone", "found"),
    [("3", [(MISS, 3, 3)]), ("2, 3", [(MISS, 2, 3)]), ("1", [(MISS, 1, 1)]), ("1, 4", [(MISS, 1, 1), (MISS, 4, 4)])],
)
async def test_removed_entry_is_reported(gone, found, write, tamper, check):
    await write(5)
    await tamper(f"DELETE FROM audit_event WHERE sequence IN ({gone})")
    assert await check() == found


async def test_removed_entry_is_reported_after_renumbering(write, tamper, check):
    await write(5)
    await tamper(
        "DELETE FROM audit_event WHERE sequence = 3",
        "UPDATE audit_event SET sequence = 3 WHERE sequence = 4",
        "UPDATE audit_event SET sequence = 4 WHERE sequence = 5",
    )
    assert await check() == [(MOVE, 3, 3), (MOVE, 4, 4), (CUT, 5, 5)]


async def test_truncated_chain_is_reported(write, tamper, check):
    await write(5)
    await tamper("DELETE FROM audit_event WHERE sequence >= 4")
    assert await check() == [(CUT, 4, 5)]
    await tamper("DELETE FROM audit_event")
    assert await check() == [(CUT, 1, 5)]


async def test_swapped_entries_are_reported(write, tamper, check):
    await write(6)
    await tamper(
        "UPDATE audit_event SET sequence = 100 WHERE sequence = 3",
        "UPDATE audit_event SET sequence = 3 WHERE sequence = 4",
        "UPDATE audit_event SET sequence = 4 WHERE sequence = 100",
    )
    assert await check() == [(MOVE, 3, 3), (MOVE, 4, 4)]


async def test_entry_forged_with_its_hash_breaks_the_next_link(write, tamper, check, query):
    await write(5)
    await tamper("UPDATE audit_event SET action = 'forged' WHERE sequence = 3")
    await _rehash(query, tamper, 3)
    assert await check() == [(CHANGE, 3, 4)]


async def test_last_entry_forged_with_its_hash_differs_from_recorded_end(write, tamper, check, query):
    await write(5)
    await tamper("UPDATE audit_event SET action = 'forged' WHERE sequence = 5")
    await _rehash(query, tamper, 5)
    assert await check() == [(CHANGE, 5, 5)]


async def test_entries_beyond_recorded_end_are_reported(write, check, query):
    await write(3)
    await query("UPDATE audit_head SET sequence = 2")
    assert await check() == [(CHANGE, 3, 3)]
    await query("DELETE FROM audit_head")
    assert await check() == [(CUT, 3, 3)]


async def test_fully_rewritten_chain_is_found_only_by_checkpoint(write, tamper, check, query, database):
    await write(3)
    (kept,) = await query("SELECT sequence, hash FROM audit_event WHERE sequence = 2")
    checkpoint = Checkpoint(**kept)
    assert await check(checkpoint) == []
    await tamper("DELETE FROM audit_event", "UPDATE audit_head SET sequence = 0, hash = ''")
    await write(1)
    assert await check() == []
    assert await check(checkpoint) == [(CUT, 2, 2)]
    await write(3)
    assert await check(checkpoint) == [(REWRITE, 2, 2)]


@pytest.mark.slow
async def test_verification_reports_only_the_first_findings(write, tamper, check):
    await write(300)
    await tamper("UPDATE audit_event SET action = 'x'")
    found = await check()
    assert (len(found), found[0]) == (100, (CHANGE, 1, 1))


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text("abcé 1", max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=scaled(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    details=st.lists(
        st.dictionaries(st.text("abc", min_size=1, max_size=3), _JSON, max_size=4), min_size=1, max_size=20
    )
)
def test_hash_of_any_json_detail_is_reproducible(details, hash_in_own_loop):
    hash_in_own_loop(details)


@pytest.fixture
def hash_in_own_loop(database_url):
    async def run(details):
        database = Database(database_url, pool_size=1)
        try:
            async with database.session() as session:
                await append(session, Actor(), [AuditEntry("changed", "pool", detail=each) for each in details])
            async with database.session() as session:
                assert (await verify(session)).findings == []
        finally:
            await database.close()

    return lambda details: asyncio.run(run(details))


async def _rehash(query, tamper, sequence):
    (row,) = await query("SELECT * FROM audit_event WHERE sequence = :sequence", sequence=sequence)
    await tamper(f"UPDATE audit_event SET hash = '{hash_of(AuditRow(**row))}' WHERE sequence = {sequence}")


# -- the API ------------------------------------------------------------------------------------------------------------


async def test_every_write_is_audited_with_its_actor(demo, admin, check, query):
    (key,) = await query("SELECT id FROM api_key")
    events = (await demo("GET", f"{AUDIT}?sort=sequence")).json["items"]
    assert [(event["action"], event["kind"]) for event in events] == [
        ("created", "fleet"),
        ("created", "listener"),
        ("created", "pool"),
    ]
    for event in events:
        assert (event["actor_id"], event["api_key_id"]) == (str(admin.id), str(key["id"]))
    fleet = (await demo("GET", "/api/v1/fleets/demo")).json["id"]
    assert {event["fleet_id"] for event in events} == {fleet}
    assert (await demo("GET", f"{AUDIT}/2")).json == events[1]
    for ref in ("4", "0", "-1", "x", "1.0", "9" * 30, "٣"):
        assert (await demo("GET", f"{AUDIT}/{ref}")).status == 404
    assert await check() == []


async def test_refused_write_is_not_audited(demo, query):
    before = await query("SELECT * FROM audit_event")
    await demo("POST", "/api/v1/pools", {"name": "us", "fleet": "demo", "country": "de"})
    await demo("POST", "/api/v1/pools?dry_run=true", {"name": "de", "fleet": "demo", "country": "de"})
    assert await query("SELECT * FROM audit_event") == before


async def test_audit_events_are_filtered(demo, make_operator, query):
    await demo.declare("other", "de", "de")
    eve = await make_operator("eve", "operator")
    await demo.holding(eve.key)("PATCH", "/api/v1/pools/us", {"name": "usa"})
    fleet = (await demo("GET", "/api/v1/fleets/other")).json["id"]
    (first,) = await query("SELECT at FROM audit_event WHERE sequence = 1")
    (last,) = await query("SELECT at FROM audit_event ORDER BY sequence DESC LIMIT 1")
    for wanted, count in (
        ("kind=pool", 3),
        ("kind=pool&action=created", 2),
        (f"actor={eve.id}", 1),
        ("fleet=other", 3),
        (f"fleet={fleet}", 3),
        (f"object_id={fleet}", 1),
        ("fleet=nowhere", 0),
        (f"since={_quoted(first['at'])}", 7),
        (f"since={_quoted(last['at'])}", 1),
        (f"until={_quoted(first['at'])}", 0),
        (f"until={_quoted(last['at'])}", 6),
    ):
        reply = await demo("GET", f"{AUDIT}?{wanted}")
        assert (reply.status, len(reply.json["items"])) == (200, count), wanted


async def test_audit_events_are_paged_newest_first(api, write):
    await write(5)
    seen, cursor = [], ""
    for _ in range(3):
        page = (await api("GET", f"{AUDIT}?limit=2{cursor}")).json
        seen += [event["sequence"] for event in page["items"]]
        cursor = f"&cursor={page['next']}"
    assert seen == [5, 4, 3, 2, 1]
    assert page["next"] is None


@pytest.mark.parametrize(
    "wanted",
    [
        "since=yesterday",
        "since=2026-01-01",
        "actor=me",
        "kind=%00",
        "object_id=%00",
        "limit=0",
        "sort=hash",
        "who=me",
        "cursor=x",
    ],
)
async def test_invalid_audit_query_is_refused(wanted, api):
    reply = await api("GET", f"{AUDIT}?{wanted}")
    assert (reply.status, reply.is_problem) == (422, True)


async def test_cursor_beyond_bigint_is_refused(api):
    for value in (10**30, -(10**30), "9" * 400):
        cursor = urlsafe_b64encode(json.dumps(["-sequence", value, str(value)]).encode()).decode().rstrip("=")
        assert (await api("GET", f"{AUDIT}?cursor={cursor}")).status == 422


async def test_audit_events_are_exported_as_ndjson(api, write):
    await write(2_500)
    reply = await api("GET", f"{AUDIT}?sort=sequence", headers={"accept": "application/x-ndjson"})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, 2_501))
    assert lines[7] == (await api("GET", f"{AUDIT}/8")).json
    some = await api("GET", f"{AUDIT}?limit=3&action=changed", headers={"accept": "application/x-ndjson"})
    assert [json.loads(line)["sequence"] for line in some.body.splitlines()] == [2_500, 2_499, 2_498]
    assert (await api("GET", f"{AUDIT}?sort=x", headers={"accept": "application/x-ndjson"})).status == 422


async def test_deleting_operator_keeps_chain_valid(api, make_operator, check, query):
    eve = await make_operator("eve", "operator", password="correct horse battery")
    await api.anonymous("POST", "/api/v1/auth/login", {"name": "eve", "password": "correct horse battery"})
    await api.holding(eve.key)("POST", "/api/v1/fleets", {"name": "x", "listener": {"address": "127.0.0.1", "port": 1}})
    assert (await api("DELETE", "/api/v1/operators/eve")).status == 204
    assert await check() == []
    assert {"actor_id": eve.id} in await query("SELECT actor_id FROM audit_event")


def _quoted(at):
    assert at.utcoffset() == timedelta(0)
    return at.isoformat().replace("+", "%2B")
