"""The cache of certificates: its entries, its bound, and when entries are dropped."""

from __future__ import annotations

import asyncio
from uuid import UUID

from api.runtime.certificate_cache import CertificateCache
from model.database import DatabaseUnreachable
from model.entities import Role
from model.exit_states import ExitState
from model.repositories import enrolment
from model.request_signature import thumbprint_of


async def test_find_returns_credential_of_certificate(exit_proxy, gateway, database):
    cache = CertificateCache(database)
    found = await cache.find(thumbprint_of(exit_proxy.certificate))
    assert (str(found.proxy_id), found.role, found.state) == (exit_proxy.id, Role.EXIT, ExitState.REGISTERING)
    found = await cache.find(thumbprint_of(gateway.certificate))
    assert (str(found.proxy_id), found.role, found.state) == (gateway.id, Role.GATEWAY, None)
    assert await cache.find("x" * 43) is None


async def test_change_of_another_exit_keeps_entries(exit_proxy, demo, database, monkeypatch):
    cache = CertificateCache(database)
    await cache.catch_up()
    thumbprint = thumbprint_of(exit_proxy.certificate)
    first = await cache.find(thumbprint)
    await demo.declare_exit(name="other")
    await demo("PATCH", "/api/v1/fleets/demo", {"listener": {"port": 8081}})
    await cache.catch_up()
    assert await cache.find(thumbprint) is first
    await demo("PATCH", f"/api/v1/exits/{exit_proxy.id}", {"port": 9000})
    await cache.catch_up()
    assert await cache.find(thumbprint) is not first


async def test_change_log_gap_clears_cache(exit_proxy, demo, database, query):
    cache = CertificateCache(database)
    await cache.catch_up()
    thumbprint = thumbprint_of(exit_proxy.certificate)
    first = await cache.find(thumbprint)
    for n in range(2):
        await demo.declare_exit(name=f"other-{n}")
    await query("DELETE FROM change WHERE revision < (SELECT value FROM revision) RETURNING id")
    await cache.catch_up()
    assert await cache.find(thumbprint) is not first


async def test_database_restored_to_older_revision_clears_cache(exit_proxy, database, query):
    cache = CertificateCache(database)
    await cache.catch_up()
    first = await cache.find(thumbprint_of(exit_proxy.certificate))
    await query("UPDATE revision SET value = 1 RETURNING id")
    await cache.catch_up()
    assert await cache.find(thumbprint_of(exit_proxy.certificate)) is not first


async def test_read_before_removal_is_not_cached(exit_proxy, database, monkeypatch):
    cache = CertificateCache(database)
    thumbprint = thumbprint_of(exit_proxy.certificate)
    read, done, gate = enrolment.find_credentials, asyncio.Event(), asyncio.Event()

    async def read_slowly(database, thumbprints):
        found = await read(database, thumbprints)
        done.set()
        await gate.wait()
        return found

    monkeypatch.setattr("model.repositories.enrolment.find_credentials", read_slowly)
    finding = asyncio.create_task(cache.find(thumbprint))
    await done.wait()
    cache.forget(UUID(exit_proxy.id))
    gate.set()
    assert await finding is not None
    assert not cache._credentials


async def test_concurrent_lookups_share_a_statement(exit_proxy, gateway, database, monkeypatch):
    cache = CertificateCache(database)
    read, statements = enrolment.find_credentials, []

    async def count_lookups(database, thumbprints):
        statements.append(sorted(thumbprints))
        return await read(database, thumbprints)

    monkeypatch.setattr("model.repositories.enrolment.find_credentials", count_lookups)
    known = [thumbprint_of(proxy.certificate) for proxy in (exit_proxy, gateway)]
    requested = [*known, *known, *("x" * 42 + str(number) for number in range(9))]
    found = await asyncio.gather(*map(cache.find, requested))
    assert statements == [sorted(set(requested))]
    assert [str(each.proxy_id) for each in found[:4]] == [exit_proxy.id, gateway.id] * 2
    assert found[4:] == [None] * 9


async def test_find_raises_during_outage_and_recovers(exit_proxy, database, monkeypatch):
    cache = CertificateCache(database)
    thumbprint = thumbprint_of(exit_proxy.certificate)

    async def away(*_):
        raise DatabaseUnreachable("away", hint="start it")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("model.repositories.enrolment.find_credentials", away)
        results = await asyncio.gather(*(cache.find(thumbprint) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [DatabaseUnreachable] * 3
    assert str((await cache.find(thumbprint)).proxy_id) == exit_proxy.id


async def test_cache_is_bounded(demo, database, make_proxy, make_token):
    cache = CertificateCache(database, certificates_max=2)
    token = await make_token(Role.EXIT)
    thumbprints = []
    for name in "abc":
        proxy = make_proxy(Role.EXIT)
        await proxy.enrol(token, name)
        thumbprints.append(thumbprint_of(proxy.certificate))
    a, b, c = thumbprints
    for thumbprint in (a, b, a, c):
        await cache.find(thumbprint)
    assert list(cache._credentials) == [a, c]
    assert sum(map(len, cache._thumbprints.values())) == 2


async def test_running_cache_follows_other_replicas(exit_proxy, demo, make_api, database, until):
    other = make_api(database)
    cache = demo.context.certificate_cache
    task = asyncio.create_task(cache.run())
    await until(lambda: cache._revision)
    assert (await exit_proxy.beat()).json["state"] == "registering"
    await other("PATCH", f"/api/v1/exits/{exit_proxy.id}", {"enabled": False})
    await until(lambda: not cache._credentials)
    assert (await exit_proxy.beat()).json["state"] == "disabled"
    await other("DELETE", f"/api/v1/exits/{exit_proxy.id}")
    await until(lambda: not cache._credentials)
    assert (await exit_proxy.beat()).status == 410
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
