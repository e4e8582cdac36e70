"""Guessing: it takes longer and longer, and keeps nobody out for good."""

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


async def test_after_five_failures_each_further_one_takes_twice_as_long(log_in, clock):
    for _ in range(5):
        assert (await log_in(WRONG)).status == 401
    for seconds in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900):
        reply = await log_in(WRONG)
        assert (reply.status, reply.json["code"]) == (429, "too_many_attempts")
        assert int(reply.headers["retry-after"]) == seconds
        clock.advance(seconds=seconds)
        assert (await log_in(WRONG)).status == 401


async def test_meanwhile_the_right_password_is_of_no_use_and_afterwards_all_is_forgotten(log_in, clock):
    for _ in range(5):
        await log_in(WRONG)
    assert (await log_in()).status == 429
    clock.advance(seconds=1)
    assert (await log_in()).status == 200
    assert [(await log_in(WRONG)).status for _ in range(5)] == [401] * 5


async def test_failures_are_forgotten_after_an_hour(log_in, clock):
    for _ in range(4):
        await log_in(WRONG)
    clock.advance(hours=1, seconds=1)
    assert [(await log_in(WRONG)).status for _ in range(6)] == [401] * 5 + [429]


async def test_many_guesses_at_once_do_not_all_pass(log_in):
    replies = await asyncio.gather(*(log_in(WRONG) for _ in range(30)))
    assert [reply.status for reply in replies].count(401) == 5


async def test_a_name_is_guarded_wherever_guesses_come_from(log_in):
    replies = [await log_in(WRONG, peer=f"198.51.100.{number}") for number in range(7)]
    assert [reply.status for reply in replies] == [401] * 5 + [429] * 2


async def test_an_unknown_name_is_guarded_as_a_known_one(log_in):
    assert [(await log_in(name="nobody")).status for _ in range(6)] == [401] * 5 + [429]


async def test_an_address_is_stopped_whatever_names_it_tries(log_in):
    replies = [await log_in(WRONG, name=f"somebody-{number}", peer=AWAY) for number in range(22)]
    assert [reply.status for reply in replies] == [401] * 20 + [429] * 2
    assert (await log_in(peer=HOME)).status == 200


@pytest.mark.parametrize(
    ("one", "other"),
    [("2001:db8::1", "2001:db8::ffff:2"), ("::ffff:198.51.100.9", "198.51.100.9"), ("fe80::1%eth0", "fe80::2%eth1")],
)
async def test_addresses_of_one_host_count_together(one, other, log_in):
    for number in range(20):
        await log_in(name=f"somebody-{number}", peer=one)
    assert (await log_in(name="another", peer=other)).status == 429


async def test_strangers_cannot_keep_people_out_of_where_they_work(log_in, clock):
    assert (await log_in(peer=HOME)).status == 200
    for number in range(40):
        await log_in(WRONG, peer=f"198.51.100.{number}")
    assert (await log_in(peer=AWAY)).status == 429
    assert (await log_in(peer=HOME)).status == 200
    # and at home guesses count as anywhere
    assert [(await log_in(WRONG, peer=HOME)).status for _ in range(6)] == [401] * 5 + [429]


async def test_whoever_logs_in_does_not_free_others_who_guess_for_another_name(make_operator, log_in):
    await make_operator("eve", "viewer", password=PASSWORD)
    statuses = []
    for _ in range(3):
        statuses += [(await log_in(WRONG)).status for _ in range(2)]
        assert (await log_in(name="eve")).status == 200
    assert [*statuses, (await log_in(WRONG)).status] == [401] * 5 + [429] * 2


async def test_replicas_count_together(make_api, database):
    replicas = [make_api(database) for _ in range(2)]
    body = {"name": "ada", "password": WRONG}
    replies = [await replicas[number % 2].anonymous("POST", "/api/v1/auth/login", body) for number in range(6)]
    assert [reply.status for reply in replies] == [401] * 5 + [429]


async def test_neither_names_nor_addresses_are_kept(log_in, query):
    await log_in(WRONG)
    kept = str(await query("SELECT * FROM throttle"))
    assert "ada" not in kept
    assert HOME not in kept


async def test_attempts_that_are_refused_unseen_are_audited_once_a_second(log_in, query, clock):
    for _ in range(5):
        await log_in(WRONG)
    for _ in range(10):
        await log_in(WRONG)
    clock.advance(seconds=0.9)
    await log_in(WRONG)
    clock.advance(seconds=0.05)
    await log_in(WRONG)
    told = await query("SELECT detail FROM audit_event WHERE action = 'login_refused' ORDER BY sequence")
    assert [row["detail"]["attempts"] for row in told] == [1]
    clock.advance(seconds=0.05)
    assert (await log_in(WRONG)).status == 401
    await log_in(WRONG)
    told = await query("SELECT detail FROM audit_event WHERE action = 'login_refused' ORDER BY sequence")
    assert sum(row["detail"]["attempts"] for row in told) == 13
