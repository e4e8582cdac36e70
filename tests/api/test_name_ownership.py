"""Names belong to keys: who registers a name in use needs its key, or a token with which an operator allows the takeover."""

from __future__ import annotations

import pytest

from model.entities import Role
from model.repositories import exit_reports, heartbeats
from model.repositories.heartbeats import Heartbeat
from model.request_signature import thumbprint_of
from tests.api.conftest import ApiReply


@pytest.fixture
async def takeover(demo, make_proxy, make_token):
    """`await takeover(role)`: a proxy that took over the name `one` with an operator's token."""

    async def take(role: Role, **fields):
        newcomer = make_proxy(role)
        token = await make_token(role, uses=1, proxy_name="one", takes_over=True)
        assert (await newcomer.enrol(token, **fields)).status == 201
        return newcomer

    return take


def assert_name_in_use(reply: ApiReply) -> None:
    assert (reply.status, reply.json["code"]) == (409, "name_in_use")
    assert [(error["field"], error["value"]) for error in reply.json["errors"]] == [("/name", "one")]
    assert "exitplane token create" in reply.json["hint"]
    assert "--takes-over one" in reply.json["hint"]


@pytest.mark.parametrize("role", Role)
async def test_name_in_use_is_refused_to_another_key(role, demo, make_proxy, make_token, stored):
    token = await make_token(role)
    owner = make_proxy(role)
    await owner.enrol(token)
    before = await stored()
    assert_name_in_use(await make_proxy(role).enrol(token))
    assert await stored() == before
    assert (await owner.beat()).status == 202


async def test_stolen_name_leaves_the_address_as_it_is(demo, exit_proxy, make_proxy, make_token):
    thief = make_proxy(Role.EXIT)
    assert_name_in_use(await thief.enrol(await make_token(Role.EXIT), address="203.0.113.66", port=9443))
    shown = (await demo("GET", f"/api/v1/exits/{exit_proxy.id}")).json
    assert (shown["address"], shown["port"]) == ("198.51.100.7", 8443)


async def test_foreign_signing_request_does_not_prove_the_key(demo, exit_proxy, make_proxy, make_token):
    """A captured CSR is signed with the owner's key, but the request around it is not."""
    token = await make_token(Role.EXIT)
    thief = make_proxy(Role.EXIT)
    assert_name_in_use(await thief.enrol(token, csr=exit_proxy.csr, address="203.0.113.66"))


async def test_captured_registration_proves_the_key_for_minutes_only(demo, exit_proxy, make_token, clock, monkeypatch):
    said = {"token": await make_token(Role.EXIT), "csr": exit_proxy.csr}
    sent = {}
    sign = exit_proxy.sign
    monkeypatch.setattr(exit_proxy, "sign", lambda *what: sent.setdefault(what, sign(*what)))
    assert (await exit_proxy.enrol(**said)).status == 201
    clock.advance(minutes=7)
    assert_name_in_use(await exit_proxy.enrol(**said))
    assert len(sent) == 1


@pytest.mark.parametrize("role", Role)
async def test_takeover_ends_the_former_certificates_at_once(role, demo, make_proxy, make_token, takeover):
    owner = make_proxy(role)
    await owner.enrol(await make_token(role))
    assert (await owner.beat()).status == 202
    newcomer = await takeover(role)
    assert newcomer.id == owner.id
    refused = await owner.beat()
    assert (refused.status, refused.json["code"]) == (410, "replaced")
    assert "--takes-over" in refused.json["hint"]
    assert (await newcomer.beat()).status == 202


async def test_former_key_renews_no_more(demo, exit_proxy, make_token, takeover):
    await takeover(Role.EXIT)
    assert_name_in_use(await exit_proxy.enrol(await make_token(Role.EXIT)))


async def test_former_key_may_take_the_name_back_with_an_operators_word(demo, exit_proxy, takeover, make_token):
    newcomer = await takeover(Role.EXIT)
    again = await make_token(Role.EXIT, uses=1, proxy_name="one", takes_over=True)
    assert (await exit_proxy.enrol(again)).status == 201
    assert ((await exit_proxy.beat()).status, (await newcomer.beat()).status) == (202, 410)


async def test_exit_that_was_taken_over_needs_a_heartbeat_of_the_new_key(
    demo, exit_proxy, takeover, database, query, clock
):
    """Not even a heartbeat that another replica accepted just before, and stores afterwards, makes it healthy."""
    await query("UPDATE exit SET state = 'healthy' RETURNING id")
    newcomer = await takeover(Role.EXIT)
    shown = (await demo("GET", f"/api/v1/exits/{newcomer.id}")).json
    assert (shown["state"], "taken over" in shown["state_reason"]) == ("registering", True)

    async def store(certificate: str) -> list:
        clock.advance(seconds=1)
        beat = Heartbeat(
            newcomer.id, clock(), clock(), True, True, False, "", "1", certificate=thumbprint_of(certificate)
        )
        async with database.session() as session:
            await heartbeats.store(session, [beat])
            return [each.exit_id for each in await exit_reports.find_moving(session, None, None)]

    assert await store(exit_proxy.certificate) == []
    assert [str(each) for each in await store(newcomer.certificate)] == [newcomer.id]


async def test_declared_exit_without_a_key_takes_any_first_key(demo, make_proxy, make_token):
    made = await demo.declare_exit(name="one")
    proxy = make_proxy(Role.EXIT)
    assert (await proxy.enrol(await make_token(Role.EXIT))).status == 201
    assert proxy.id == made["id"]


async def test_disabled_exit_stays_disabled_after_a_takeover(demo, exit_proxy, takeover):
    await demo("PATCH", f"/api/v1/exits/{exit_proxy.id}", {"enabled": False})
    newcomer = await takeover(Role.EXIT)
    assert (await demo("GET", f"/api/v1/exits/{newcomer.id}")).json["state"] == "disabled"
