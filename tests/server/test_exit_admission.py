"""A gateway that comes or goes changes the list of its fleet's exits, on their open streams."""

from __future__ import annotations

import pytest

from model.repositories import authorities
from xds.translate import names

pytestmark = pytest.mark.postgres
SECRET = (names.SECRET, names.GATEWAYS_SECRET)


async def test_exit_is_sent_the_gateways_of_its_fleet(fleet_db, serve, connect, authority):
    async with fleet_db.database.session() as session:
        await authorities.ensure(session, lambda: authority)
    one = fleet_db.identity
    async with serve() as server, connect(server, fleet_db.exit_identity("us")) as client:
        await client.start()
        await client.ask(*SECRET)
        await client.until(lambda it: one.uri.encode() in it.bodies.get(SECRET, b"") and it.held(names.LISTENER))
        assert authority.certificate_pem.encode() in client.bodies[SECRET]
        listeners, two = client.count(names.LISTENER), await fleet_db.add_gateway("gw-2")
        await client.until(lambda it: two.uri.encode() in it.bodies[SECRET])
        await fleet_db.remove(fleet_db.gateway)
        await client.until(lambda it: one.uri.encode() not in it.bodies[SECRET])
        assert two.uri.encode() in client.bodies[SECRET]
        assert client.count(names.LISTENER) == listeners  # it drains nothing
