"""Secrets of a real database: none is stored in clear, and all are sealed anew at a rotation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import select, text, update
from sqlmodel import SQLModel

from model.authority import CertificateAuthority
from model.database import Database
from model.encryption import KEY_BYTES, Keyring, MissingEncryptionKey, SecretUnreadable
from model.repositories import authorities, logins, sealed_values
from model.repositories.idempotency import StoredReply, find_reply, save_reply
from model.tables import AcceptedRow, ExitRow, FleetRow, OperatorRow, PoolRow, ProxyRow, ServerCertificateRow
from tests.conftest import KEYRING
from tests.model.conftest import exit_row
from tests.shared_statements import separate_statements, share_statements

pytestmark = pytest.mark.postgres
AT = datetime(2026, 1, 1, tzinfo=UTC)
CANARY = "c4n4ry-of-a-secret"
SECRETS = 7


@pytest.fixture(autouse=True)
def _keyring_of_each_engine() -> Iterator[None]:
    separate_statements()
    yield
    share_statements()


@pytest.fixture
async def opened(database_url):
    """Open the database with a keyring: `opened(keyring)`."""
    made = []

    def open_with(keyring):
        made.append(Database(database_url, keyring=keyring, pool_size=1))
        return made[-1]

    yield open_with
    for each in made:
        await each.close()


async def store_secrets(database) -> None:
    """Store one secret of each kind."""
    fleet, operator = FleetRow(name="demo", created_at=AT), uuid4()
    pool = PoolRow(fleet_id=fleet.id, name="us", country="us", created_at=AT)
    proxy = ProxyRow(fleet_id=fleet.id, name="a", role="exit", created_at=AT)
    exit_ = exit_row(pool, "a", id=proxy.id, address="192.0.2.1", parent_password=CANARY)
    certificate = ServerCertificateRow(
        fleet_id=fleet.id, name="web", chain="", key=CANARY, server_names=[], expires_at=AT, created_at=AT
    )
    accepted = AcceptedRow(group="g", type_url="t", name="n", version="1", body=CANARY.encode(), at=AT)
    async with database.session() as session:
        await authorities.ensure(session, lambda: CertificateAuthority("public", CANARY))
        await logins.ensure_signing_key(session, CANARY.encode())
        for row in (fleet, pool, proxy, exit_, certificate, accepted):
            session.add(row)
            await session.flush()
        session.add(OperatorRow(id=operator, name="ada", role="admin", totp_secret=CANARY, created_at=AT))
        await save_reply(session, operator, "k", StoredReply("d", 201, {}, CANARY))


async def read_secrets(database) -> set[str]:
    """Return the values of all secrets as the product reads them."""
    async with database.session() as session:
        authority = await authorities.ensure(session, lambda: CertificateAuthority("", "another"))
        found = [authority.key_pem, (await logins.ensure_signing_key(session, b"another")).decode()]
        found += (await session.execute(select(ExitRow.parent_password))).scalars()
        found += (await session.execute(select(ServerCertificateRow.key))).scalars()
        found += [body.decode() for body in (await session.execute(select(AcceptedRow.body))).scalars()]
        (operator,) = (await session.execute(select(OperatorRow))).scalars()
        found.append(operator.totp_secret)
        reply = await find_reply(session, operator.id, "k")
        found.append(reply.body)
    assert len(found) == SECRETS
    return set(found)


async def dump(database) -> str:
    """Return the content of all tables as text, bytes in escape format."""
    async with database.session() as session:
        await session.execute(text("SET LOCAL bytea_output = 'escape'"))
        tables = (table.name for table in SQLModel.metadata.sorted_tables)
        rows = [(await session.execute(text(f'SELECT t::text FROM "{name}" t'))).scalars() for name in tables]
        return "\n".join(row for each in rows for row in each)


async def test_no_secret_is_stored_in_clear(database):
    await store_secrets(database)
    content = await dump(database)
    assert "192.0.2.1" in content  # the dump is one
    assert CANARY not in content
    assert await read_secrets(database) == {CANARY}
    assert await sealed_values.count_by_key(database) == {KEYRING.ids[0]: SECRETS}


async def test_secrets_of_an_older_version_stay_in_clear_until_sealed(database_url, opened):
    keyring = Keyring([os.urandom(KEY_BYTES)])
    database = opened(keyring)
    assert await sealed_values.are_sealed(database) is None
    keyring.sealing = False
    await store_secrets(database)
    assert (await dump(database)).count(CANARY) == SECRETS
    assert await sealed_values.are_sealed(database) is False
    assert not await sealed_values.adopt(database, keyring)
    assert await read_secrets(database) == {CANARY}

    assert await sealed_values.seal_all(database, keyring) == SECRETS
    assert CANARY not in await dump(database)
    assert await read_secrets(database) == {CANARY}
    assert await sealed_values.adopt(database, keyring)
    assert await sealed_values.seal_all(database, keyring) == 0


async def test_rotation_leaves_nothing_that_the_old_key_opens(database, opened):
    await store_secrets(database)
    new = os.urandom(KEY_BYTES)
    both = Keyring([new, bytes(KEY_BYTES)])
    assert await sealed_values.seal_all(opened(both), both) == SECRETS
    alone = Keyring([new])
    assert await read_secrets(opened(alone)) == {CANARY}
    assert await sealed_values.count_by_key(database) == {alone.ids[0]: SECRETS}
    with pytest.raises(MissingEncryptionKey):
        await read_secrets(opened(KEYRING))


async def test_wrong_key_is_refused_at_start_and_changes_nothing(database, opened):
    await store_secrets(database)
    before = await dump(database)
    wrong = Keyring([os.urandom(KEY_BYTES)])
    for use in (sealed_values.adopt, sealed_values.seal_all):
        with pytest.raises(MissingEncryptionKey, match=KEYRING.ids[0]):
            await use(opened(wrong), wrong)
    assert await dump(database) == before


async def test_secret_that_was_moved_from_another_column_is_refused(database):
    await store_secrets(database)
    async with database.session() as session:
        await session.execute(text("UPDATE server_certificate SET key = (SELECT key FROM authority)"))
    with pytest.raises(SecretUnreadable, match=r"server_certificate\.key"):
        await read_secrets(database)


async def test_rotation_keeps_the_value_of_a_concurrent_writer(database, opened, monkeypatch):
    await store_secrets(database)
    new = Keyring([os.urandom(KEY_BYTES), bytes(KEY_BYTES)])
    seal_value = sealed_values._seal_value

    async def after_another_writer(session, keyring, column, key, stored):
        if column.purpose == "exit.parent_password":
            async with database.session() as other:
                await other.execute(update(ExitRow).values(parent_password="newer"))
        await seal_value(session, keyring, column, key, stored)

    monkeypatch.setattr(sealed_values, "_seal_value", after_another_writer)
    await sealed_values.seal_all(opened(new), new)
    assert await read_secrets(opened(new)) == {CANARY, "newer"}
