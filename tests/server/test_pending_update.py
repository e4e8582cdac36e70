"""The pending update of a stream: changes merge while a response of their type is in flight."""

from __future__ import annotations

import pytest

from model.repositories import sync
from xds.protocol.stream import XdsStream
from xds.translate import names

pytestmark = pytest.mark.postgres


@pytest.fixture
def publications(monkeypatch) -> list[XdsStream]:
    """The stream of each call of `XdsStream.publish`."""
    given = []
    publish = XdsStream.publish

    def counted(stream, *rest):
        given.append(stream)
        return publish(stream, *rest)

    monkeypatch.setattr(XdsStream, "publish", counted)
    return given


@pytest.fixture
async def slow_and_quick(fleet_db, server, drive, until, has_all):
    """A gateway with endpoints in flight that does not answer, and one that answers everything."""
    second = await fleet_db.add_gateway("gw-2")
    await until(lambda: second.proxy_id in server.publisher.world.proxies)
    async with drive(server, fleet_db.identity) as slow, drive(server, second) as quick:
        await until(lambda: has_all(2)(slow.client) and has_all(2)(quick.client))
        await until(lambda: not server.publisher.rollouts_in_progress())
        slow.pause(names.ENDPOINT)
        await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.2")
        await until(lambda: slow.waiting)
        yield slow, quick


def has(gateway, fleet_db, address: str) -> bool:
    return address.encode() in gateway.client.bodies.get((names.ENDPOINT, fleet_db.cluster("us")), b"")


async def test_updates_merge_until_client_answers(fleet_db, server, slow_and_quick, until, publications):
    slow, quick = slow_and_quick
    ((pending,),) = (server.publisher.streams_of(slow.id),)
    publications.clear()
    for number in range(3, 13):
        await fleet_db.change(fleet_db.exits["us"], endpoint=f"198.51.100.{number}")
        await until(lambda number=number: has(quick, fleet_db, f"198.51.100.{number}"))
    assert pending.stream not in publications
    assert slow.client.count(names.ENDPOINT) == len(slow.waiting) + 1 == 2
    await slow.resume()
    await until(lambda: has(slow, fleet_db, "198.51.100.12"))
    assert publications.count(pending.stream) == 1
    assert slow.client.count(names.ENDPOINT) == 3


async def test_other_types_are_sent_while_one_is_in_flight(fleet_db, slow_and_quick, until):
    slow, _ = slow_and_quick
    await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.3")
    await fleet_db.add_pool("jp")
    await until(lambda: fleet_db.cluster("jp") in slow.client.held(names.CLUSTER))
    assert len(slow.waiting) == 1


async def test_ack_of_older_response_does_not_accept_pending_update(fleet_db, slow_and_quick, until):
    """The ACK of the older response says nothing about the newer one."""
    slow, quick = slow_and_quick
    newer = await fleet_db.change(fleet_db.exits["us"], endpoint="198.51.100.3")
    await until(lambda: has(quick, fleet_db, "198.51.100.3"))

    async def newer_is_sent():
        async with fleet_db.database.session() as session:
            found = [row for row in await sync.of_proxy(session, slow.id) if row.type_url == names.ENDPOINT]
            return found[0] if found and found[0].sent_revision == newer else None

    await slow.client.accept(slow.waiting.pop(0))
    found = await until(newer_is_sent)
    assert found.wanted_revision == newer
    assert found.accepted_revision < newer
