"""The limit on login attempts: waits grow, and nobody is locked out for good."""

from __future__ import annotations

import asyncio

import pytest

PASSWORD, WRONG = "correct horse battery", "wrong horse battery"
HOME, AWAY = "192.0.2.1", "198.51.100.9"


@pytest.fixture(autouse=True)
async def ada(make_operator):
    return await make_operator("ada", "operator", password=PASSWORD)


@pytest.fixture
def log_in(api):
    async def run(password=PASSWORD, *, name="ada", peer=HOME):
        return await api.anonymous("POST", "/api/v1/auth/login", {"name": name, "password": password}, peer=peer)

    return run


async def test_each_failure_after_five_doubles_the_wait(log_in, clock):
    for _ in range(5):
        assert (await log_in(WRONG)).status == 401
    for seconds in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900):
        reply = await log_in(WRONG)
        assert (reply.status, reply.json["code"]) == (429, "too_many_attempts")
        assert int(reply.headers["retry-after"]) == seconds
        clock.advance(seconds=seconds)
        assert (await log_in(WRONG)).status == 401


async def test_right_password_waits_too_and_then_clears_failures(log_in, clock):
    for _ in range(5):
        await log_in(WRONG)
    assert (await log_in()).status == 429
    clock.advance(seconds=1)
    assert (await log_in()).status == 200
    assert [(await log_in(WRONG)).status for _ in range(5)] == [401] * 5


async def test_failures_expire_after_an_hour(log_in, clock):
    for _ in range(4):
        await log_in(WRONG)
    clock.advance(hours=1, seconds=1)
    assert [(await log_in(WRONG)).status for _ in range(6)] == [401] * 5 + [429]


async def test_concurrent_attempts_are_throttled(log_in):
    replies = await asyncio.gather(*(log_in(WRONG) for _ in range(30)))
    assert [reply.status for reply in replies].count(401) == 5


async def test_attempts_count_per_name_across_addresses(log_in):
    replies = [await log_in(WRONG, peer=f"198.51.100.{number}") for number in range(7)]
    assert [reply.status for reply in replies] == [401] * 5 + [429] * 2


async def test_unknown_name_is_throttled_too(log_in):
    assert [(await log_in(name="nobody")).status for _ in range(6)] == [401] * 5 + [429]


async def test_attempts_count_per_address_across_names(log_in):
    replies = [await log_in(WRONG, name=f"somebody-{number}", peer=AWAY) for number in range(22)]
    assert [reply.status for reply in replies] == [401] * 20 + [429] * 2
    assert (await log_in(peer=HOME)).status == 200


@pytest.mark.parametrize(
    ("one", "other"),
    [("2001:db8::1", "2001:db8::ffff:2"), ("::ffff:198.51.100.9", "198.51.100.9"), ("fe80::1%eth0", "fe80::2%eth1")],
)
async def test_addresses_of_one_network_count_together(one, other, log_in):
    for number in range(20):
        await log_in(name=f"somebody-{number}", peer=one)
    assert (await log_in(name="another", peer=other)).status == 429


async def test_strangers_cannot_lock_out_a_known_address(log_in, clock):
    assert (await log_in(peer=HOME)).status == 200
    for number in range(40):
        await log_in(WRONG, peer=f"198.51.100.{number}")
    assert (await log_in(peer=AWAY)).status == 429
    assert (await log_in(peer=HOME)).status == 200
    # attempts from the known address count as well
    assert [(await log_in(WRONG, peer=HOME)).status for _ in range(6)] == [401] * 5 + [429]


async def test_login_does_not_clear_failures_of_other_names(make_operator, log_in):
    await make_operator("eve", "viewer", password=PASSWORD)
    statuses = []
    for _ in range(3):
        statuses += [(await log_in(WRONG)).status for _ in range(2)]
        assert (await log_in(name="eve")).status == 200
    assert [*statuses, (await log_in(WRONG)).status] == [401] * 5 + [429] * 2


async def test_replicas_share_attempt_counters(make_api, database):
    replicas = [make_api(database) for _ in range(2)]
    body = {"name": "ada", "password": WRONG}
    replies = [await replicas[number % 2].anonymous("POST", "/api/v1/auth/login", body) for number in range(6)]
    assert [reply.status for reply in replies] == [401] * 5 + [429]


async def test_names_and_addresses_are_stored_as_digests(log_in, query):
    await log_in(WRONG)
    kept = str(await query("SELECT * FROM throttle"))
    assert "ada" not in kept
    assert HOME not in kept


async def test_throttled_attempts_are_audited_once_a_second(log_in, query, clock):
    for _ in range(5):
        await log_in(WRONG)
    for _ in range(10):
        await log_in(WRONG)
    clock.advance(seconds=0.9)
    await log_in(WRONG)
    clock.advance(seconds=0.05)
    await log_in(WRONG)
    rows = await query("SELECT detail FROM audit_event WHERE action = 'login_refused' ORDER BY sequence")
    assert [row["detail"]["attempts"] for row in rows] == [1]
    clock.advance(seconds=0.05)
    assert (await log_in(WRONG)).status == 401
    await log_in(WRONG)
    rows = await query("SELECT detail FROM audit_event WHERE action = 'login_refused' ORDER BY sequence")
    assert sum(row["detail"]["attempts"] for row in rows) == 13
