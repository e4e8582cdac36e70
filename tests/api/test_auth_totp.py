"""The second factor: codes that are good once."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

PASSWORD = "correct horse battery"
TOTP = "/api/v1/auth/totp"


@pytest.fixture
async def ada(api, make_operator):
    """Somebody who logged in without a second factor."""
    await make_operator("ada", "operator", password=PASSWORD)
    reply = await api.anonymous("POST", "/api/v1/auth/login", {"name": "ada", "password": PASSWORD})
    return api.holding(reply.json["access_token"])


@pytest.fixture
async def otp(ada, clock):
    """What ada's authenticator shows, once it was set up."""
    made = pyotp.TOTP((await ada("POST", TOTP)).json["secret"])
    assert (await ada("POST", f"{TOTP}/confirm", {"code": made.at(clock())})).status == 204
    clock.advance(seconds=30)
    return made


@pytest.fixture
def log_in(api):
    async def run(**more):
        return await api.anonymous("POST", "/api/v1/auth/login", {"name": "ada", "password": PASSWORD, **more})

    return run


async def test_setting_one_up_gives_what_an_authenticator_reads(ada, query):
    reply = await ada("POST", TOTP)
    assert reply.headers["cache-control"] == "no-store"
    uri = urlsplit(reply.json["uri"])
    said = parse_qs(uri.query)
    assert (uri.scheme, uri.netloc, uri.path) == ("otpauth", "totp", "/Exitplane:ada")
    assert (said["secret"], said["issuer"]) == ([reply.json["secret"]], ["Exitplane"])


async def test_it_counts_once_a_code_of_it_was_sent(ada, log_in, clock, query):
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
async def test_a_clock_may_be_off_by_one_step(steps, status, log_in, otp, clock):
    clock.advance(minutes=5)
    assert (await log_in(totp=otp.at(clock(), counter_offset=steps))).status == status


async def test_a_code_is_good_once(log_in, otp, clock):
    code = otp.at(clock())
    assert (await log_in(totp=code)).status == 200
    reply = await log_in(totp=code)
    assert (reply.status, reply.json["code"]) == (401, "bad_login")
    assert (await log_in(totp=otp.at(clock(), counter_offset=-1))).status == 401  # nor is one from before it
    clock.advance(seconds=30)
    assert (await log_in(totp=otp.at(clock()))).status == 200


async def test_a_code_does_not_make_up_for_a_wrong_password(log_in, otp, clock):
    assert (await log_in(password="wrong horse battery", totp=otp.at(clock()))).status == 401
    assert (await log_in(totp=otp.at(clock()))).status == 200  # and was not used up


async def test_codes_cannot_be_guessed(log_in, otp, clock):
    wrong = otp.at(clock(), counter_offset=100)
    replies = [await log_in(totp=wrong) for _ in range(6)]
    assert [reply.status for reply in replies] == [401] * 5 + [429]
    assert (await log_in(totp=otp.at(clock()))).status == 429


async def test_that_the_password_is_right_frees_nobody_from_the_count(log_in, otp):
    assert [(await log_in()).status for _ in range(6)] == [401] * 5 + [429]


async def test_there_is_one_at_a_time(ada, otp):
    reply = await ada("POST", TOTP)
    assert (reply.status, reply.json["code"]) == (409, "totp_enabled")
    reply = await ada("POST", f"{TOTP}/confirm", {"code": "123456"})
    assert (reply.status, reply.json["code"]) == (409, "totp_not_started")


async def test_it_is_removed_by_the_password(ada, otp, log_in):
    reply = await ada("DELETE", TOTP, {"password": "wrong horse battery"})
    assert (reply.status, reply.json["code"]) == (403, "bad_password")
    assert (await ada("DELETE", TOTP, {"password": PASSWORD})).status == 204
    assert (await log_in()).status == 200


async def test_it_is_removed_by_a_code(ada, otp, log_in, clock):
    reply = await ada("DELETE", TOTP, {"code": otp.at(clock(), counter_offset=9)})
    assert (reply.status, reply.json["code"]) == (403, "bad_code")
    assert (await ada("DELETE", TOTP, {"code": otp.at(clock())})).status == 204
    assert (await log_in()).status == 200
    assert (await ada("DELETE", TOTP, {"password": PASSWORD})).json["code"] == "no_totp"


async def test_it_is_not_removed_without_either(ada, otp):
    for body in ({}, {"password": None}, {"code": ""}):
        assert (await ada("DELETE", TOTP, body)).status == 422


async def test_an_admin_takes_it_away_from_who_lost_it(api, otp, log_in):
    reply = await api("PATCH", "/api/v1/operators/ada", {"has_totp": False})
    assert (reply.status, reply.json["has_totp"]) == (200, False)
    assert (await log_in()).status == 200
    assert (await api("PATCH", "/api/v1/operators/ada", {"has_totp": True})).status == 422
