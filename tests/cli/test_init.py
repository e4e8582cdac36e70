"""Tests of `exitplane init`."""

from __future__ import annotations

import asyncio
import functools
import json
import stat

import pytest
from sqlalchemy import select

from api.runtime.passwords import Argon2Hasher
from api.runtime.tokens import digest_of
from model.repositories.audit import verify
from model.tables import ApiKeyRow, OperatorRow

PASSWORD = "correct horse battery"


@pytest.fixture
def init(command, database_url):
    return functools.partial(command, "init", EXITPLANE_DATABASE_URL=database_url)


@pytest.fixture
def operators(database):
    async def run():
        async with database.session() as session:
            return list((await session.execute(select(OperatorRow).order_by(OperatorRow.name))).scalars())

    return run


async def test_generate_prints_a_password_and_creates_the_admin(init, operators, database):
    done = await init("--name", "ada", "--generate", "--json")
    assert (done.status, done.err) == (0, "")
    made = json.loads(done.out)
    (row,) = await operators()
    assert (str(row.id), row.name, row.role, row.fleet_ids, row.disabled) == (made["id"], "ada", "admin", None, False)
    assert len(made["password"]) >= 20
    assert (await Argon2Hasher().check(made["password"], row.password_hash)).is_correct
    async with database.session() as session:
        verdict = await verify(session)
    assert (verdict.ok, verdict.count) == (True, 1)


async def test_password_is_read_from_a_file(init, operators, tmp_path):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    done = await init("--name", "ada", "--password-file", str(tmp_path / "password"))
    assert (done.status, done.out) == (0, "ada is an admin\n")
    assert (await Argon2Hasher().check(PASSWORD, (await operators())[0].password_hash)).is_correct


async def test_init_without_password_is_refused(init, operators):
    done = await init("--name", "ada")
    assert done.status == 1
    assert done.err == "exitplane: there is no terminal to ask for the password; give --generate or --password-file\n"
    assert "no terminal to ask for the name" in (await init("--generate")).err
    assert await operators() == []


@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [
        ("Ada", PASSWORD, "name: this is not a name"),
        ("ada", "too short", "password:"),
        ("ada", "x" * 257, "password:"),
        ("a-long-name-indeed", "A-long-name-indeed", "the operator's name"),
    ],
)
async def test_name_and_password_follow_the_rules_of_the_api(name, password, expected, init, operators, tmp_path):
    (tmp_path / "password").write_text(password)
    done = await init("--name", name, "--password-file", str(tmp_path / "password"))
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert expected in done.err
    assert password not in done.err
    assert await operators() == []


async def test_second_admin_needs_force(init, operators, tmp_path):
    assert (await init("--name", "ada", "--generate")).status == 0
    refused = await init("--name", "eve", "--generate")
    assert (refused.status, len(refused.err.splitlines())) == (1, 1)
    assert "there is already an admin" in refused.err
    assert "--force" in refused.err
    assert (await init("--name", "eve", "--generate", "--force")).status == 0
    assert [row.name for row in await operators()] == ["ada", "eve"]
    taken = await init("--name", "eve", "--generate", "--force")
    assert (taken.status, "choose another --name" in taken.err) == (1, True)


@pytest.mark.slow
async def test_one_of_two_concurrent_inits_succeeds(program, operators, database_url):
    start = functools.partial(program, "init", EXITPLANE_DATABASE_URL=database_url)
    both = await asyncio.gather(*(start("--name", name, "--generate") for name in ("ada", "eve")))
    assert sorted(done.status for done in both) == [0, 1]
    assert len(await operators()) == 1


async def test_api_key_file_is_readable_by_its_owner_alone(init, database, tmp_path):
    path = tmp_path / "operator.key"
    done = await init("--name", "ada", "--generate", "--api-key-file", str(path))
    assert done.status == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = path.read_text().strip()
    assert key not in done.out + done.err
    async with database.session() as session:
        (row,) = (await session.execute(select(ApiKeyRow))).scalars()
    assert (row.digest, row.role, row.expires_at) == (digest_of(key), "admin", None)


async def test_existing_key_file_is_kept_and_no_admin_is_created(init, operators, tmp_path):
    path = tmp_path / "operator.key"
    path.write_text("mine")
    for where in (path, tmp_path / "nowhere" / "key"):
        done = await init("--name", "ada", "--generate", "--api-key-file", str(where))
        assert (done.status, "--api-key-file" in done.err) == (1, True)
    assert path.read_text() == "mine"
    assert await operators() == []
    assert [each.name for each in tmp_path.iterdir()] == ["operator.key"]
