"""Login by password, access tokens, refresh tokens and API keys."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from datetime import timedelta
from unittest.mock import patch
from uuid import UUID

import asyncpg
import jwt
import pytest
from argon2 import PasswordHasher
from sqlalchemy import event

from api.runtime.auth_state import AuthState
from api.runtime.passwords import Argon2Hasher
from api.runtime.tokens import AccessToken, BadToken, TokenSigner

LOGIN, REFRESH, LOGOUT, ME = (f"/api/v1/auth/{name}" for name in ("login", "refresh", "logout", "me"))
PASSWORD = "correct horse battery"


@pytest.fixture
async def ada(make_operator):
    return await make_operator("ada", "operator", password=PASSWORD)


@pytest.fixture
def log_in(api, ada):
    async def run(name="ada", password=PASSWORD, **more):
        return await api.anonymous("POST", LOGIN, {"name": name, "password": password, **more})

    return run


@pytest.fixture
def audited(query):
    """`await audited()`: the actions, oldest first."""

    async def run():
        return [row["action"] for row in await query("SELECT action FROM audit_event ORDER BY sequence")]

    return run


@contextmanager
def record_statements(database):
    """Record the statements sent within the block, by SQLAlchemy or asyncpg directly."""
    sent, fetch = [], asyncpg.Connection.fetch

    def note(_connection, _cursor, statement, *_):
        sent.append(statement)

    async def noting(self, statement, *values, **more):
        sent.append(statement)
        return await fetch(self, statement, *values, **more)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        with patch.object(asyncpg.Connection, "fetch", noting):
            yield sent
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


def is_refused(reply, code, status=401):
    assert (reply.status, reply.is_problem, reply.json["code"]) == (status, True, code), reply.body
    assert reply.json["hint"]
    if status == 401:
        assert reply.headers["www-authenticate"].startswith('Bearer realm="exitplane"')
    return True


# -- login -------------------------------------------------------------------------------------------------------------


async def test_login_returns_token_that_identifies_operator(log_in, api, ada, audited):
    reply = await log_in()
    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"
    assert set(reply.json) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (reply.json["token_type"], reply.json["expires_in"]) == ("Bearer", 3600)
    me = await api.holding(reply.json["access_token"])("GET", ME)
    assert me.json == {
        "id": str(ada.id),
        "name": "ada",
        "role": "operator",
        "fleets": None,
        "has_password": True,
        "has_totp": False,
        "api_key": None,
    }
    assert await audited() == ["login"]


async def test_access_token_has_only_required_claims(log_in, ada):
    claims = jwt.decode((await log_in()).json["access_token"], options={"verify_signature": False})
    assert set(claims) == {"sub", "sid", "exp", "iat", "iss", "aud"}
    assert UUID(claims["sub"]) == ada.id
    assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ada", "wrong horse battery"),
        ("nobody", PASSWORD),
        ("ada ", PASSWORD),
        ("Ada", PASSWORD),
        ("\0", PASSWORD),
        ("", ""),
    ],
)
async def test_failed_logins_get_identical_replies(name, password, log_in, query):
    reply = await log_in(name, password)
    assert is_refused(reply, "bad_login")
    assert reply.body == (await log_in("somebody-else", "with another password")).body
    (failed,) = await query("SELECT * FROM audit_event ORDER BY sequence LIMIT 1")
    assert (failed["action"], failed["actor_id"], failed["detail"]) == ("login_failed", None, {"reason": "password"})
    assert (failed["object_id"] is not None) == (name == "ada")


async def test_operator_id_is_not_a_login_name(log_in, ada):
    assert is_refused(await log_in(str(ada.id)), "bad_login")


async def test_unknown_name_costs_one_password_hash_too(make_api, database, ada):
    """It counts hash checks instead of measuring time: both cases hash with the stored parameters."""
    checked = []

    class Watched(PasswordHasher):
        def verify(self, kept, password):
            checked.append(kept.split("$")[3])
            return super().verify(kept, password)

    hasher = Watched(time_cost=1, memory_cost=8, parallelism=1)
    api = make_api(database, auth_state=AuthState(password_hasher=Argon2Hasher(hasher)))
    for name in ("ada", "nobody", "\0"):
        await api.anonymous("POST", LOGIN, {"name": name, "password": "wrong horse battery"})
    assert checked == ["m=8,t=1,p=1"] * 3


async def test_login_errors_do_not_repeat_sent_values(api):
    secret = "x" * 300
    for body in (
        {"name": "ada", "password": secret},
        {"name": "ada", "password": [secret]},
        {"name": "ada", "password": PASSWORD, "totp": secret},
        {"name": "ada", "password": {"x": secret}},
    ):
        reply = await api.anonymous("POST", LOGIN, body)
        assert reply.status == 422
        assert reply.json["errors"][0]["value"] is None
        assert "xxx" not in reply.body.decode()
    assert "xxx" not in (await api.anonymous("POST", REFRESH, {"refresh_token": "x" * 2000})).body.decode()


async def test_login_rehashes_password_with_current_parameters(make_api, database, ada, query):
    (before,) = await query("SELECT password_hash FROM operator WHERE name = 'ada'")
    assert "m=8,t=1,p=1" in before["password_hash"]
    api = make_api(database, auth_state=AuthState())
    assert (await api.anonymous("POST", LOGIN, {"name": "ada", "password": PASSWORD})).status == 200
    (after,) = await query("SELECT password_hash FROM operator WHERE name = 'ada'")
    assert after["password_hash"].startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert (await api.anonymous("POST", LOGIN, {"name": "ada", "password": PASSWORD})).status == 200


async def test_password_is_compared_in_unicode_normal_form(make_operator, log_in):
    await make_operator("zoe", password="motörhead batterie")
    assert (await log_in("zoe", "moto\u0308rhead batterie")).status == 200


async def test_disabled_operator_is_locked_out_at_once(log_in, api, query):
    mine = api.holding((await log_in()).json["access_token"])
    assert (await mine("GET", ME)).status == 200
    await query("UPDATE operator SET disabled = true WHERE name = 'ada'")
    assert is_refused(await mine("GET", ME), "operator_disabled")
    assert is_refused(await log_in(), "bad_login")


async def test_operator_without_password_cannot_log_in_with_one(make_operator, log_in):
    await make_operator("zoe")
    assert is_refused(await log_in("zoe", ""), "bad_login")


# -- access tokens -----------------------------------------------------------------------------------------------------


async def test_access_token_expires_after_an_hour(log_in, api, clock):
    mine = api.holding((await log_in()).json["access_token"])
    clock.advance(minutes=59, seconds=59)
    assert (await mine("GET", ME)).status == 200
    clock.advance(seconds=1)
    reply = await mine("GET", ME)
    assert is_refused(reply, "token_expired")
    assert "refresh" in reply.json["hint"]
    assert reply.headers["www-authenticate"] == 'Bearer realm="exitplane", error="invalid_token"'


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer a b",
        "Bearer \u00e9",
        "ep-key-abc",
        "Bearer " + "x" * 5000,
    ],
)
async def test_missing_bearer_token_is_refused(header, api):
    reply = await api("GET", ME, headers={"authorization": header})
    assert is_refused(reply, "not_authenticated")
    assert reply.headers["www-authenticate"] == 'Bearer realm="exitplane"'
    assert "exitplane login" in reply.json["hint"]


async def test_hint_without_operators_is_exitplane_init(api, query):
    await query("DELETE FROM operator")
    assert "exitplane init" in (await api.anonymous("GET", ME)).json["hint"]


async def test_foreign_and_forged_tokens_are_refused(log_in, api, ada, clock, query):
    good = (await log_in()).json["access_token"]
    header, body, signature = good.split(".")
    (session,) = await query("SELECT id FROM session")
    claims = {"sub": str(ada.id), "sid": str(session["id"]), "iss": "exitplane", "aud": "api"}
    claims |= {"iat": int(clock().timestamp()), "exp": int(clock().timestamp()) + 60}
    stranger = TokenSigner(bytes(32))
    ours = await api.context.auth_state.signing_key.get_signer(api.context.database)
    for bad in (
        "x",
        "a.b.c",
        f"{header}.{body}.",
        f"{header}.{body}.{signature[:-4]}AAAA",
        jwt.encode(claims, None, "none"),
        jwt.encode(claims, "secret" * 10, "HS256"),
        stranger.issue_access(AccessToken(ada.id, session["id"]), clock()),
        ours.issue_state(clock()),
        ours._sign({"sub": str(ada.id), "sid": str(session["id"])}, "oidc", clock(), timedelta(hours=1)),
        ours._sign({"sub": "1", "sid": "2"}, "api", clock(), timedelta(hours=1)),
        "ep-refresh-abc",
    ):
        assert is_refused(await api.holding(bad)("GET", ME), "bad_token"), bad


async def test_token_is_valid_for_its_own_purpose_only(clock):
    signer = TokenSigner(bytes(32))
    access = signer.issue_access(AccessToken(UUID(int=1), UUID(int=2)), clock())
    for wrong in (access, signer.new_refresh(UUID(int=1))):
        with pytest.raises(BadToken):
            signer.check_state(wrong, clock())
    for wrong in (access, signer.issue_state(clock())):
        with pytest.raises(BadToken):
            signer.read_refresh(wrong)


async def test_concurrent_replicas_create_one_signing_key(make_api, database, log_in, clock):
    replicas = [make_api(database) for _ in range(8)]
    signers = await asyncio.gather(*(each.context.auth_state.signing_key.get_signer(database) for each in replicas))
    token = signers[0].issue_access(AccessToken(UUID(int=1), UUID(int=2)), clock())
    assert {signer.read_access(token, clock()) for signer in signers} == {AccessToken(UUID(int=1), UUID(int=2))}


async def test_logout_invalidates_tokens_of_session(log_in, api, audited):
    tokens = (await log_in()).json
    mine = api.holding(tokens["access_token"])
    assert (await mine("POST", LOGOUT)).status == 204
    assert is_refused(await mine("GET", ME), "session_ended")
    assert is_refused(await api.anonymous("POST", REFRESH, {"refresh_token": tokens["refresh_token"]}), "session_ended")
    assert await audited() == ["login", "logout"]


async def test_authentication_takes_one_statement(log_in, api, database):
    mine = api.holding((await log_in()).json["access_token"])
    for caller in (mine, api):
        assert (await caller("GET", "/api/v1/nothing")).status == 404
        with record_statements(database) as sent:
            assert (await caller("GET", "/api/v1/nothing")).status == 404
        assert len(sent) == 1, sent


async def test_database_outage_is_503_and_not_401(make_api, linked_database, until):
    database, link = linked_database
    api = make_api(database)
    assert (await api("GET", ME)).status == 200
    await link.cut()
    assert (await api("GET", ME)).status == 503
    await link.restore()
    assert (await api("GET", ME)).status == 200


# -- refresh tokens ----------------------------------------------------------------------------------------------------


async def test_refresh_token_returns_new_tokens(log_in, api, clock, query):
    first = (await log_in()).json
    clock.advance(hours=2)
    reply = await api.anonymous("POST", REFRESH, {"refresh_token": first["refresh_token"]})
    assert reply.status == 200
    assert reply.json["refresh_token"] != first["refresh_token"]
    assert (await api.holding(reply.json["access_token"])("GET", ME)).status == 200
    (kept,) = await query("SELECT refresh_digest FROM session")
    assert kept["refresh_digest"] not in reply.body.decode()


async def test_reused_refresh_token_ends_its_session(log_in, api, audited):
    first, other = (await log_in()).json, (await log_in()).json
    second = (await api.anonymous("POST", REFRESH, {"refresh_token": first["refresh_token"]})).json
    again = await api.anonymous("POST", REFRESH, {"refresh_token": first["refresh_token"]})
    assert is_refused(again, "refresh_token_reused")
    assert is_refused(await api.holding(second["access_token"])("GET", ME), "session_ended")
    assert is_refused(await api.anonymous("POST", REFRESH, {"refresh_token": second["refresh_token"]}), "session_ended")
    assert (await api.holding(other["access_token"])("GET", ME)).status == 200
    assert await audited() == ["login", "login", "refresh_reused"]


async def test_concurrent_refreshes_with_one_token_succeed_once(log_in, api):
    token = (await log_in()).json["refresh_token"]
    replies = await asyncio.gather(*(api.anonymous("POST", REFRESH, {"refresh_token": token}) for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 401, 401, 401, 401]


async def test_session_ends_after_thirty_days_despite_refreshes(log_in, api, clock):
    token = (await log_in()).json["refresh_token"]
    for _ in range(2):
        clock.advance(days=14)
        token = (await api.anonymous("POST", REFRESH, {"refresh_token": token})).json["refresh_token"]
    clock.advance(days=2)
    assert is_refused(await api.anonymous("POST", REFRESH, {"refresh_token": token}), "session_ended")


async def test_invalid_refresh_token_ends_no_session(log_in, api, query):
    tokens = (await log_in()).json
    (session,) = await query("SELECT id FROM session")
    made_up = TokenSigner(bytes(32)).new_refresh(session["id"])
    for bad in (
        made_up,
        "",
        "x",
        "ep-refresh-",
        "ep-refresh-!!!",
        "é",
        tokens["access_token"],
        "ep-refresh-" + "A" * 64,
    ):
        assert is_refused(await api.anonymous("POST", REFRESH, {"refresh_token": bad}), "bad_refresh_token"), bad
    assert (await api.anonymous("POST", REFRESH, {"refresh_token": tokens["refresh_token"]})).status == 200


# -- API keys ----------------------------------------------------------------------------------------------------------


async def test_api_key_identifies_caller(api, admin, query):
    me = (await api("GET", ME)).json
    (key,) = await query("SELECT * FROM api_key")
    assert (me["id"], me["name"], me["role"]) == (str(admin.id), "admin", "admin")
    assert me["api_key"] == {"id": str(key["id"]), "name": "everything", "scopes": None, "expires_at": None}
    assert admin.key not in str(key)


async def test_unknown_expired_or_disabled_api_key_is_refused(api, clock, query, admin):
    assert is_refused(await api.holding("ep-key-" + "A" * 43)("GET", ME), "bad_api_key")
    await query("UPDATE api_key SET expires_at = :at", at=clock())
    assert is_refused(await api("GET", ME), "api_key_expired")
    await query("UPDATE api_key SET expires_at = NULL")
    await query("UPDATE operator SET disabled = true")
    assert is_refused(await api("GET", ME), "operator_disabled")


async def test_last_use_of_key_is_recorded_once_a_minute_without_revision(api, clock, query, stored):
    async def used():
        return (await query("SELECT last_used_at FROM api_key"))[0]["last_used_at"]

    before = await stored()
    assert await used() is None
    first = clock()
    for seconds in (0, 30, 29):
        clock.advance(seconds=seconds)
        assert (await api("GET", ME)).status == 200
        assert await used() == first
    clock.advance(seconds=2)
    await asyncio.gather(*(api("GET", ME) for _ in range(5)))
    assert await used() == clock()
    assert await stored() == before


@pytest.mark.parametrize(
    ("owner", "key", "role"),
    [("admin", "viewer", "viewer"), ("viewer", "admin", "viewer"), ("operator", "operator", "operator")],
)
async def test_key_rights_are_limited_by_current_rights_of_owner(owner, key, role, api, make_operator, query):
    one, two, three = (UUID(int=number) for number in (1, 2, 3))
    somebody = await make_operator("somebody", owner, fleet_ids=[str(one), str(two)])
    where = "WHERE operator_id = :owner"
    await query(f"UPDATE api_key SET role = :role {where}", role=key, owner=somebody.id)
    mine = api.holding(somebody.key)
    me = (await mine("GET", ME)).json
    assert (me["role"], me["fleets"]) == (role, [str(one), str(two)])
    fleets = f'["{two}", "{three}"]'
    await query(f"UPDATE api_key SET fleet_ids = CAST(:fleets AS jsonb) {where}", fleets=fleets, owner=somebody.id)
    assert (await mine("GET", ME)).json["fleets"] == [str(two)]
    await query("UPDATE operator SET fleet_ids = NULL WHERE id = :owner", owner=somebody.id)
    assert (await mine("GET", ME)).json["fleets"] == [str(two), str(three)]


async def test_key_is_limited_to_its_scopes(api, query):
    await query("""UPDATE api_key SET scopes = '["fleets:read", "pools:write"]'""")
    assert (await api("GET", "/api/v1/fleets")).status == 200
    assert is_refused(await api("POST", "/api/v1/fleets", {}), "out_of_scope", 403)
    assert is_refused(await api("GET", "/api/v1/pools"), "out_of_scope", 403)
    assert (await api("POST", "/api/v1/pools", {})).status == 422
    assert (await api("GET", ME)).json["api_key"]["scopes"] == ["fleets:read", "pools:write"]


async def test_key_cannot_use_endpoints_that_need_login(api):
    body = {"old": PASSWORD, "new": "staple battery horse"}
    for method, path, sent in (
        ("POST", LOGOUT, None),
        ("POST", "/api/v1/auth/password", body),
        ("POST", "/api/v1/auth/totp", None),
        ("POST", "/api/v1/auth/totp/confirm", {"code": "123456"}),
        ("DELETE", "/api/v1/auth/totp", {"code": "123456"}),
    ):
        assert is_refused(await api(method, path, sent), "needs_login", 403), path


# -- password change --------------------------------------------------------------------------------------------------


async def test_password_change_ends_other_sessions(log_in, api, audited):
    here, elsewhere = [api.holding((await log_in()).json["access_token"]) for _ in range(2)]
    body = {"old": PASSWORD, "new": "staple battery horse"}
    assert (await here("POST", "/api/v1/auth/password", body)).status == 204
    assert (await here("GET", ME)).status == 200
    assert is_refused(await elsewhere("GET", ME), "session_ended")
    assert is_refused(await log_in(), "bad_login")
    assert (await log_in(password="staple battery horse")).status == 200
    assert await audited() == ["login", "login", "password_changed", "login_failed", "login"]


async def test_password_change_needs_old_password_and_valid_new_one(log_in, api, make_operator):
    mine = api.holding((await log_in()).json["access_token"])
    for old, new, status, code in (
        ("wrong horse battery", "staple battery horse", 403, "bad_password"),
        (PASSWORD, "too short", 422, "invalid"),
        (PASSWORD, "x" * 257, 422, "invalid"),
        (PASSWORD, None, 422, "invalid"),
    ):
        assert is_refused(await mine("POST", "/api/v1/auth/password", {"old": old, "new": new}), code, status)
    assert (await log_in()).status == 200


async def test_password_equal_to_name_is_refused(make_operator, log_in, api):
    await make_operator("a-rather-long-name", password=PASSWORD)
    mine = api.holding((await log_in("a-rather-long-name")).json["access_token"])
    body = {"old": PASSWORD, "new": "A-Rather-Long-Name"}
    assert is_refused(await mine("POST", "/api/v1/auth/password", body), "weak_password", 422)


async def test_password_guesses_with_stolen_token_are_throttled(log_in, api):
    mine = api.holding((await log_in()).json["access_token"])
    body = {"old": "wrong horse battery", "new": "staple battery horse"}
    replies = [await mine("POST", "/api/v1/auth/password", body) for _ in range(6)]
    assert [reply.status for reply in replies] == [403] * 5 + [429]
