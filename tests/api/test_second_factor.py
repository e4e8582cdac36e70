"""The second factor: codes that work once."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

PASSWORD = "correct horse battery"
TOTP = "/api/v1/auth/totp"


@pytest.fixture
async def ada(api, make_operator):
    """The client of an operator who logged in without a second factor."""
    await make_operator("ada", "operator", password=PASSWORD)
    reply = await api.anonymous("POST", "/api/v1/auth/login", {"name": "ada", "password": PASSWORD})
    return api.holding(reply.json["access_token"])


@pytest.fixture
async def otp(ada, clock):
    """The authenticator of ada, with the second factor enabled."""
    made = pyotp.TOTP((await ada("POST", TOTP)).json["secret"])
    assert (await ada("POST", f"{TOTP}/confirm", {"code": made.at(clock())})).status == 204
    clock.advance(seconds=30)
    return made


@pytest.fixture
def log_in(api):
    async def run(**more):
        return await api.anonymous("POST", "/api/v1/auth/login", {"name": "ada", "password": PASSWORD, **more})

    return run


async def test_start_returns_secret_and_otpauth_uri(ada, query):
    reply = await ada("POST", TOTP)
    assert reply.headers["cache-control"] == "no-store"
    uri = urlsplit(reply.json["uri"])
    parameters = parse_qs(uri.query)
    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", "/Exitplane:ada")
    assert (parameters["secret"], parameters["issuer"]) == ([reply.json["secret"]], ["Exitplane"])


async def test_second_factor_takes_effect_after_confirmation(ada, log_in, clock, query):
    secret = (await ada("POST", TOTP)).json["secret"]
    assert (await log_in()).status == 200
    wrong = await ada("POST", f"{TOTP}/confirm", {"code": pyotp.TOTP(secret).at(clock(), counter_offset=5)})
    assert (wrong.status, wrong.json["code"]) == (403, "bad_code")
    assert (await log_in()).status == 200
    assert (await ada("POST", f"{TOTP}/confirm", {"code": pyotp.TOTP(secret).at(clock())})).status == 204
    assert (await ada("GET", "/api/v1/auth/me")).json["has_totp"]
    reply = await log_in()
    assert (reply.status, reply.json["code"]) == (401, "totp_required")
    assert (await query("SELECT action FROM audit_event ORDER BY sequence DESC OFFSET 1 LIMIT 1")) == [
        {"action": "totp_enabled"}
    ]


@pytest.mark.parametrize(("steps", "status"), [(-2, 401), (-1, 200), (0, 200), (1, 200), (2, 401)])
async def test_code_may_be_one_step_off(steps, status, log_in, otp, clock):
    clock.advance(minutes=5)
    assert (await log_in(totp=otp.at(clock(), counter_offset=steps))).status == status


async def test_code_works_once(log_in, otp, clock):
    code = otp.at(clock())
    assert (await log_in(totp=code)).status == 200
    reply = await log_in(totp=code)
    assert (reply.status, reply.json["code"]) == (401, "bad_login")
    assert (await log_in(totp=otp.at(clock(), counter_offset=-1))).status == 401  # an older code is refused too
    clock.advance(seconds=30)
    assert (await log_in(totp=otp.at(clock()))).status == 200


async def test_code_does_not_replace_password(log_in, otp, clock):
    assert (await log_in(password="wrong horse battery", totp=otp.at(clock()))).status == 401
    assert (await log_in(totp=otp.at(clock()))).status == 200  # the code was not used up


async def test_code_guesses_are_throttled(log_in, otp, clock):
    wrong = otp.at(clock(), counter_offset=100)
    replies = [await log_in(totp=wrong) for _ in range(6)]
    assert [reply.status for reply in replies] == [401] * 5 + [429]
    assert (await log_in(totp=otp.at(clock()))).status == 429


async def test_right_password_without_code_counts_as_failure(log_in, otp):
    assert [(await log_in()).status for _ in range(6)] == [401] * 5 + [429]


async def test_only_one_second_factor_can_be_enabled(ada, otp):
    reply = await ada("POST", TOTP)
    assert (reply.status, reply.json["code"]) == (409, "totp_enabled")
    reply = await ada("POST", f"{TOTP}/confirm", {"code": "123456"})
    assert (reply.status, reply.json["code"]) == (409, "totp_not_started")


async def test_second_factor_is_removed_with_password(ada, otp, log_in):
    reply = await ada("DELETE", TOTP, {"password": "wrong horse battery"})
    assert (reply.status, reply.json["code"]) == (403, "bad_password")
    assert (await ada("DELETE", TOTP, {"password": PASSWORD})).status == 204
    assert (await log_in()).status == 200


async def test_second_factor_is_removed_with_code(ada, otp, log_in, clock):
    reply = await ada("DELETE", TOTP, {"code": otp.at(clock(), counter_offset=9)})
    assert (reply.status, reply.json["code"]) == (403, "bad_code")
    assert (await ada("DELETE", TOTP, {"code": otp.at(clock())})).status == 204
    assert (await log_in()).status == 200
    assert (await ada("DELETE", TOTP, {"password": PASSWORD})).json["code"] == "no_totp"


async def test_second_factor_removal_needs_password_or_code(ada, otp):
    for body in ({}, {"password": None}, {"code": ""}):
        assert (await ada("DELETE", TOTP, body)).status == 422


async def test_admin_removes_second_factor_of_operator(api, otp, log_in):
    reply = await api("PATCH", "/api/v1/operators/ada", {"has_totp": False})
    assert (reply.status, reply.json["has_totp"]) == (200, False)
    assert (await log_in()).status == 200
    assert (await api("PATCH", "/api/v1/operators/ada", {"has_totp": True})).status == 422
