"""Certificates of listeners over time: renewed, taken from folders, and near their end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from keeper.certificate_folders import FolderWatcher
from keeper.certificates import look_after_certificates
from model.certificate_rules import check_pair, columns_of
from model.repositories import declared, server_certificates
from model.tables import ListenerRow, ServerCertificateRow
from model.unit_of_work import write
from tests.certificates import Issued, issue

pytestmark = pytest.mark.postgres
DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "demo" / "gw.example"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def watcher(database, tmp_path, clock) -> FolderWatcher:
    return FolderWatcher(database, tmp_path, clock)


def put_files(folder, chain: Issued | None = None, key: Issued | None = None) -> None:
    """Replace one or both files, as ACME clients do."""
    for name, content in (("fullchain.pem", chain and chain.pem), ("privkey.pem", key and key.key_pem())):
        if content is not None:
            (folder / "new").touch(0o600)
            (folder / "new").write_text(content)
            (folder / "new").rename(folder / name)


async def store(harness, made: Issued, **fields):
    """Store a certificate of the fleet, and return its id."""
    pair = check_pair(made.pem, made.key_pem(), harness.clock())
    async with write(harness.database) as unit:
        row = ServerCertificateRow(
            fleet_id=harness.pool.fleet_id, name="gw", created_at=harness.clock(), **columns_of(pair), **fields
        )
        return (await declared.save(unit, row)).id


async def read(harness, certificate_id) -> ServerCertificateRow:
    async with harness.database.session() as session:
        return await session.get_one(ServerCertificateRow, certificate_id)


async def events(harness) -> list[dict]:
    async with harness.database.session() as session:
        query = text("SELECT detail FROM change WHERE kind = 'server_certificate' AND action = 'changed' ORDER BY id")
        return [each["changes"] for each in (await session.execute(query)).scalars()]


def made(harness, *names: str, **times) -> Issued:
    return issue(*(names or ("gw.example",)), now=harness.clock(), **times)


# -- folders -----------------------------------------------------------------------------------------------------------


async def test_new_pair_of_a_folder_is_taken_up_at_the_next_look(harness, watcher, folder):
    first, second = made(harness), made(harness)
    certificate_id = await store(harness, first, folder="gw.example")
    put_files(folder, first, first)
    await watcher.look()
    assert await events(harness) == []
    put_files(folder, second, second)
    await watcher.look()
    row = await read(harness, certificate_id)
    assert (row.chain, row.key, row.folder_error) == (second.pem, second.key_pem(), "")
    (changes,) = await events(harness)
    assert (changes["key"], changes["chain"]) == (None, None)


async def test_half_written_pair_is_not_taken_up(harness, watcher, folder):
    first, second = made(harness), made(harness)
    certificate_id = await store(harness, first, folder="gw.example")
    put_files(folder, first, first)
    await watcher.look()

    put_files(folder, chain=second)
    await watcher.look()
    assert await events(harness) == [], "the key may follow at once"
    await watcher.look()
    await watcher.look()
    row = await read(harness, certificate_id)
    assert (row.chain, "the key does not belong" in row.folder_error) == (first.pem, True)
    (changes,) = await events(harness)
    assert [*changes] == ["folder_error"]

    put_files(folder, key=second)
    await watcher.look()
    row = await read(harness, certificate_id)
    assert (row.chain, row.folder_error) == (second.pem, "")


@pytest.mark.parametrize("fault", ["missing", "readable", "early", "torn", "names"])
async def test_files_that_cannot_be_used_are_told_and_the_last_pair_stays(fault, harness, watcher, folder):
    first = made(harness)
    certificate_id = await store(harness, first, folder="gw.example")
    put_files(folder, first, first)
    await watcher.look()
    if fault == "missing":
        (folder / "privkey.pem").unlink()
    elif fault == "readable":
        (folder / "privkey.pem").chmod(0o644)
    elif fault == "early":
        late = made(harness, begin=DAY)
        put_files(folder, late, late)
    elif fault == "torn":
        (folder / "fullchain.pem").write_text(first.pem[:100])
    else:
        async with write(harness.database) as unit:
            listener = ListenerRow(
                fleet_id=harness.pool.fleet_id,
                name="secure",
                address="127.0.0.1",
                port=9443,
                certificate_id=certificate_id,
            )
            listener.countries_by_server_name = {"never.example": "us", "gw.example": "de"}
            await declared.save(unit, listener)
        other = made(harness, "other.example")
        put_files(folder, other, other)
    await watcher.look()
    await watcher.look()
    row = await read(harness, certificate_id)
    reasons = {
        "missing": "cannot be read",
        "readable": "others can read",
        "early": "not valid before",
        "torn": "not a chain",
        "names": "no certificate of the listener has the name gw.example",
    }
    assert (row.chain, reasons[fault] in row.folder_error) == (first.pem, True), row.folder_error

    if fault == "early":  # the files do not change, but their time comes
        harness.clock.advance(seconds=2 * DAY.total_seconds())
        await watcher.look()
        assert (await read(harness, certificate_id)).chain == late.pem


async def test_look_that_finds_nothing_new_writes_nothing(harness, watcher, folder, database):
    first = made(harness)
    await store(harness, first, folder="gw.example")
    put_files(folder, first, first)
    await watcher.look()
    async with database.session() as session:
        before = (await session.execute(text("SELECT value FROM revision"))).scalar_one()
    for _ in range(3):
        await watcher.look()
    async with database.session() as session:
        assert (await session.execute(text("SELECT value FROM revision"))).scalar_one() == before


# -- issued, and near the end ------------------------------------------------------------------------------------------


async def test_issued_certificate_is_renewed_before_its_end(harness, database):
    now = harness.clock()
    async with write(database) as unit:
        pair = await server_certificates.issue(unit.session, harness.pool.fleet_id, ["gw.example"], now)
        row = ServerCertificateRow(
            fleet_id=harness.pool.fleet_id, name="gw", created_at=now, issued_for=["gw.example"], **columns_of(pair)
        )
        certificate_id = (await declared.save(unit, row)).id
    for days, renewed in ((59, False), (61, True)):
        await look_after_certificates(database, now + days * DAY)
        row = await read(harness, certificate_id)
        assert (row.chain != pair.chain) is renewed
    assert (row.expires_at, row.server_names) == (now + 151 * DAY, ["gw.example"])
    assert row.chain.rpartition("-----BEGIN")[2] == pair.chain.rpartition("-----BEGIN")[2], "the authority stays"


async def test_certificate_near_its_end_is_one_event(harness, database):
    now = harness.clock()
    certificate_id = await store(harness, made(harness))
    for days in (45, 47, 50):
        await look_after_certificates(database, now + days * DAY)
    assert await events(harness) == [{"expires_soon": [False, True]}]
    row = await read(harness, certificate_id)
    assert row.expires_soon
