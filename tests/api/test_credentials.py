"""What is remembered of certificates, and when it is forgotten."""

from __future__ import annotations

import asyncio
from uuid import UUID

from api.runtime.certificate_cache import CertificateCache
from model.database import DatabaseUnreachable
from model.entities import Role
from model.exit_states import ExitState
from model.repositories import enrolment
from model.request_signature import thumbprint_of


async def test_what_a_certificate_is_worth(exit_proxy, gateway, database):
    credentials = CertificateCache(database)
    found = await credentials.find(thumbprint_of(exit_proxy.certificate))
    assert (str(found.proxy_id), found.role, found.state) == (exit_proxy.id, Role.EXIT, ExitState.REGISTERING)
    found = await credentials.find(thumbprint_of(gateway.certificate))
    assert (str(found.proxy_id), found.role, found.state) == (gateway.id, Role.GATEWAY, None)
    assert await credentials.find("x" * 43) is None


async def test_a_change_of_another_exit_leaves_what_is_remembered(exit_proxy, demo, database, monkeypatch):
    credentials = CertificateCache(database)
    await credentials.catch_up()
    thumbprint = thumbprint_of(exit_proxy.certificate)
    first = await credentials.find(thumbprint)
    await demo.declare_exit(name="other")
    await demo("PATCH", "/api/v1/fleets/demo", {"listener": {"port": 8081}})
    await credentials.catch_up()
    assert await credentials.find(thumbprint) is first
    await demo("PATCH", f"/api/v1/exits/{exit_proxy.id}", {"port": 9000})
    await credentials.catch_up()
    assert await credentials.find(thumbprint) is not first


async def test_a_gap_in_the_change_log_forgets_everything(exit_proxy, demo, database, query):
    credentials = CertificateCache(database)
    await credentials.catch_up()
    thumbprint = thumbprint_of(exit_proxy.certificate)
    first = await credentials.find(thumbprint)
    for n in range(2):
        await demo.declare_exit(name=f"other-{n}")
    await query("DELETE FROM change WHERE revision < (SELECT value FROM revision) RETURNING id")
    await credentials.catch_up()
    assert await credentials.find(thumbprint) is not first


async def test_a_database_that_went_back_in_time_forgets_everything(exit_proxy, database, query):
    credentials = CertificateCache(database)
    await credentials.catch_up()
    first = await credentials.find(thumbprint_of(exit_proxy.certificate))
    await query("UPDATE revision SET value = 1 RETURNING id")
    await credentials.catch_up()
    assert await credentials.find(thumbprint_of(exit_proxy.certificate)) is not first


async def test_what_was_read_before_a_removal_is_not_remembered_after_it(exit_proxy, database, monkeypatch):
    credentials = CertificateCache(database)
    thumbprint = thumbprint_of(exit_proxy.certificate)
    read, done, gate = enrolment.find_credentials, asyncio.Event(), asyncio.Event()

    async def read_slowly(database, given):
        found = await read(database, given)
        done.set()
        await gate.wait()
        return found

    monkeypatch.setattr("model.repositories.enrolment.find_credentials", read_slowly)
    finding = asyncio.create_task(credentials.find(thumbprint))
    await done.wait()
    credentials.forget(UUID(exit_proxy.id))
    gate.set()
    assert await finding is not None
    assert not credentials._known


async def test_those_that_are_asked_for_meanwhile_are_looked_up_together(exit_proxy, gateway, database, monkeypatch):
    credentials = CertificateCache(database)
    read, statements = enrolment.find_credentials, []

    async def counted(database, given):
        statements.append(sorted(given))
        return await read(database, given)

    monkeypatch.setattr("model.repositories.enrolment.find_credentials", counted)
    known = [thumbprint_of(proxy.certificate) for proxy in (exit_proxy, gateway)]
    asked = [*known, *known, *("x" * 42 + str(number) for number in range(9))]
    found = await asyncio.gather(*map(credentials.find, asked))
    assert statements == [sorted(set(asked))]
    assert [str(each.proxy_id) for each in found[:4]] == [exit_proxy.id, gateway.id] * 2
    assert found[4:] == [None] * 9


async def test_whoever_asks_while_postgresql_is_away_is_told_and_the_next_is_answered(
    exit_proxy, database, monkeypatch
):
    credentials = CertificateCache(database)
    thumbprint = thumbprint_of(exit_proxy.certificate)

    async def away(*_):
        raise DatabaseUnreachable("away", hint="start it")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("model.repositories.enrolment.find_credentials", away)
        said = await asyncio.gather(*(credentials.find(thumbprint) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in said] == [DatabaseUnreachable] * 3
    assert str((await credentials.find(thumbprint)).proxy_id) == exit_proxy.id


async def test_what_is_remembered_is_bounded(demo, database, make_proxy, make_token):
    credentials = CertificateCache(database, certificates_max=2)
    token = await make_token(Role.EXIT)
    thumbprints = []
    for name in "abc":
        proxy = make_proxy(Role.EXIT)
        await proxy.enrol(token, name)
        thumbprints.append(thumbprint_of(proxy.certificate))
    a, b, c = thumbprints
    for thumbprint in (a, b, a, c):
        await credentials.find(thumbprint)
    assert list(credentials._known) == [a, c]
    assert sum(map(len, credentials._thumbprints.values())) == 2


async def test_a_running_memory_follows_what_other_replicas_change(exit_proxy, demo, make_api, database, until):
    other = make_api(database)
    credentials = demo.context.credentials
    task = asyncio.create_task(credentials.run())
    await until(lambda: credentials._revision)
    assert (await exit_proxy.beat()).json["state"] == "registering"
    await other("PATCH", f"/api/v1/exits/{exit_proxy.id}", {"enabled": False})
    await until(lambda: not credentials._known)
    assert (await exit_proxy.beat()).json["state"] == "disabled"
    await other("DELETE", f"/api/v1/exits/{exit_proxy.id}")
    await until(lambda: not credentials._known)
    assert (await exit_proxy.beat()).status == 410
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
