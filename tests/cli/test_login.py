"""Tests of `exitplane login`, and of the credentials that commands send to the API."""

from __future__ import annotations

import asyncio
import json
import stat
from datetime import UTC, datetime

import pytest

from api.runtime.passwords import Argon2Hasher
from api.runtime.tokens import digest_of, new_key
from model.repositories import operators
from model.tables import ApiKeyRow, OperatorRow

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
async def ada(database):
    now = datetime.now(UTC)
    row = OperatorRow(name="ada", role="operator", password_hash=await Argon2Hasher().hash(PASSWORD), created_at=now)
    async with database.session() as session:
        await operators.save(session, row)
    return row


@pytest.fixture
async def key(database, ada):
    made = new_key()
    row = ApiKeyRow(operator_id=ada.id, name="ci", digest=digest_of(made), role="viewer", created_at=ada.created_at)
    async with database.session() as session:
        await operators.save(session, row)
    return made


@pytest.fixture
def api_url(plane):
    return plane.url


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "config" / "exitplane" / "credentials.json"


@pytest.fixture
def log_in(command, api_url, tmp_path):
    async def run(password=PASSWORD):
        (tmp_path / "password").write_text(password)
        return await command("login", "--api", api_url, "--name", "ada", "--password-file", str(tmp_path / "password"))

    return run


async def test_login_lasts_until_logout(log_in, command, api_url, kept):
    done = await log_in()
    assert (done.status, done.out, done.err) == (0, f"logged in to {api_url} as ada\n", "")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert PASSWORD not in kept.read_text()
    who = await command("whoami", "--api", f"{api_url}/")
    assert (who.status, who.out) == (0, "ada: operator of all fleets\n")
    assert json.loads((await command("whoami", "--json", EXITPLANE_API=api_url)).out)["name"] == "ada"
    assert (await command("status", "--api", api_url, "--json")).status == 0
    tokens = json.loads(kept.read_text())[api_url]
    assert (await command("logout", "--api", api_url)).out == f"logged out of {api_url}\n"
    assert json.loads(kept.read_text()) == {}
    who = await command("whoami", "--api", api_url)
    assert (who.status, who.err.startswith("exitplane: you are not logged in")) == (1, True)
    kept.write_text(json.dumps({api_url: tokens}))
    who = await command("whoami", "--api", api_url)
    assert (who.status, "has ended" in who.err) == (1, True)


async def test_wrong_password_is_refused_with_the_apis_message(log_in, kept):
    done = await log_in("wrong horse battery")
    assert (done.status, done.err) == (
        1,
        "exitplane: the name, the password or the code is wrong; try again, or ask an admin\n",
    )
    assert not kept.exists()


async def test_command_without_credential_hints_at_login(command, api_url):
    done = await command("status", "--api", api_url)
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "exitplane login" in done.err


async def test_tokens_are_sent_only_to_the_api_that_issued_them(log_in, command, api_url, kept):
    await log_in()
    other = api_url.replace("127.0.0.1", "localhost")
    assert (await command("whoami", "--api", other)).status == 1


@pytest.mark.slow
async def test_concurrent_commands_renew_an_expired_token_once(log_in, program, api_url, kept):
    await log_in()
    before = json.loads(kept.read_text())
    before[api_url] |= {"expires_at": 0, "access_token": "old"}
    kept.write_text(json.dumps(before))
    done = await asyncio.gather(*(program("whoami", "--api", api_url) for _ in range(4)))
    assert [each.status for each in done] == [0] * 4
    after = json.loads(kept.read_text())[api_url]
    assert after["refresh_token"] != before[api_url]["refresh_token"]


async def test_tokens_of_an_ended_session_are_removed(log_in, command, api_url, kept):
    await log_in()
    tokens = json.loads(kept.read_text())
    tokens[api_url] |= {"expires_at": 0, "refresh_token": "ep-refresh-none"}
    kept.write_text(json.dumps(tokens))
    done = await command("whoami", "--api", api_url)
    assert (done.status, "exitplane login" in done.err) == (1, True)
    assert json.loads(kept.read_text()) == {}


async def test_api_key_of_the_environment_wins_over_login(log_in, command, api_url, key, tmp_path):
    await log_in()
    expected = "ada: viewer of all fleets, by the API key ci\n"
    assert (await command("whoami", "--api", api_url, EXITPLANE_API_KEY=key)).out == expected
    (tmp_path / "key").write_text(key + "\n")
    by_file = {"EXITPLANE_API_KEY_FILE": str(tmp_path / "key")}
    assert (await command("whoami", "--api", api_url, **by_file)).out == expected
    by_file["EXITPLANE_API_KEY"] = "ep-key-none"
    assert "no such API key" in (await command("whoami", "--api", api_url, **by_file)).err
    missing = await command("whoami", "--api", api_url, EXITPLANE_API_KEY_FILE=str(tmp_path / "none"))
    assert (missing.status, "EXITPLANE_API_KEY_FILE" in missing.err) == (1, True)


async def test_broken_credentials_file_is_named(command, api_url, kept):
    kept.parent.mkdir(parents=True)
    for content in ("{", "[]", '{"a": 1}', '{"a": {}}'):
        kept.write_text(content)
        done = await command("whoami", "--api", api_url)
        assert (done.status, str(kept) in done.err, len(done.err.splitlines())) == (1, True, 1)


async def test_login_over_plain_http_warns(command, tmp_path):
    (tmp_path / "password").write_text(PASSWORD)
    done = await command(
        *("login", "--api", "http://192.0.2.1:9", "--name", "ada", "--password-file", str(tmp_path / "none"))
    )
    assert done.status == 1
    assert "not https" in done.err
