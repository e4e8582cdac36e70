"""Tests of `exitplane encryption`, and of the key file that `exitplane init` creates."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime

import pytest

from model.authority import create_authority
from model.database import Database
from model.encryption import KEY_BYTES, Keyring
from model.repositories import authorities


@pytest.fixture
def encryption(command, database_url):
    return functools.partial(command, "encryption", EXITPLANE_DATABASE_URL=database_url)


@pytest.fixture
def key_file(environment, tmp_path):
    return tmp_path / "state" / "encryption.key"


@pytest.fixture
async def secret_in_clear(database_url):
    """Store the authority's key as a version that sealed nothing."""
    keyring = Keyring([bytes(KEY_BYTES)])
    keyring.sealing = False
    database = Database(database_url, keyring=keyring, pool_size=1)
    async with database.session() as session:
        await authorities.ensure(session, lambda: create_authority(datetime.now(UTC)))
    await database.close()


async def status_of(encryption):
    done = await encryption("status", "--json")
    return done.status, json.loads(done.out)


async def test_init_creates_the_key_file_once(command, database_url, key_file):
    init = functools.partial(command, "init", "--generate", "--force", EXITPLANE_DATABASE_URL=database_url)
    assert (await init("--name", "ada")).status == 0
    content = key_file.read_bytes()
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert (await init("--name", "bob")).status == 0
    assert key_file.read_bytes() == content


async def test_rotation_seals_secrets_in_clear_and_drops_old_keys(encryption, key_file, secret_in_clear):
    assert (await encryption("create")).out == f"{key_file} is created\n"
    assert (await encryption("create")).out == f"{key_file} exists already\n"
    status, found = await status_of(encryption)
    assert (status, found["unsealed"]) == (1, 2)

    done = await encryption("rotate", "--no-new-key")
    assert (done.status, done.out) == (0, f"2 secrets are sealed anew, with key {found['current']}\n")
    assert await status_of(encryption) == (
        0,
        {"current": found["current"], "secrets": {found["current"]: 2}, "unsealed": 0, "missing_keys": []},
    )

    done = await encryption("rotate", "--drop-old", "--json")
    assert json.loads(done.out)["sealed"] == 2
    status, after = await status_of(encryption)
    assert (status, list(after["secrets"])) == (0, [after["current"]])
    assert after["current"] != found["current"]


async def test_status_names_a_key_that_this_host_lacks(encryption, key_file, secret_in_clear):
    await encryption("create")
    await encryption("rotate", "--no-new-key")
    _, before = await status_of(encryption)
    key_file.unlink()
    await encryption("create")
    status, found = await status_of(encryption)
    assert (status, found["missing_keys"]) == (1, [before["current"]])
    assert "this host does not have it" in (await encryption("status")).out
    done = await encryption("rotate")
    assert done.status == 1
    assert f"sealed with key {before['current']}" in done.err


async def test_keys_of_the_environment_are_not_changed(encryption, key_file):
    done = await encryption("rotate", EXITPLANE_ENCRYPTION_KEY="A" * 43 + "=")
    assert (done.status, "EXITPLANE_ENCRYPTION_KEY, which this command cannot change" in done.err) == (1, True)
    assert not key_file.exists()
