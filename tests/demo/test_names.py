"""The demo's names: the authority reveals who asks, and resolvers ask from their own address."""

import dns.message
import dns.rcode
import pytest

from agent.observing.lookup import look_up
from agent.observing.sight import Place, Useless
from agent.observing.zones import Asker, reveal
from cli.demo import names
from cli.demo.atlas import Atlas
from cli.demo.names import ZONE, serve_names
from model.endpoint import Endpoint

AUTHORITY, US, JP = "127.0.95.3", "127.0.95.4", "127.0.95.5"
PORT = 20953
ATLAS = Atlas({US: "us", JP: "jp"}, {"page.internet.test": "203.0.113.2"}, AUTHORITY, (US, JP))


@pytest.fixture(autouse=True)
async def served(monkeypatch):
    monkeypatch.setattr(names, "_PORT", PORT)
    async with serve_names(ATLAS):
        yield


@pytest.mark.parametrize(("resolver", "country"), [(US, "us"), (JP, "jp")])
async def test_the_zone_reveals_the_resolver_and_its_country(resolver, country):
    asker = await reveal(ZONE, Endpoint(resolver, PORT))
    assert asker == Asker(resolver, Place(country, None, f"AS64500 {country.upper()} Network"))


async def test_who_asks_the_authority_himself_is_revealed_without_a_country():
    assert await reveal(ZONE, Endpoint(AUTHORITY, PORT)) == Asker("127.0.0.1")


async def test_names_have_addresses_and_of_other_kinds_nothing():
    found = await look_up("page.internet.test", "A", Endpoint(US, PORT))
    assert [record.address for record in found.answer[0]] == ["203.0.113.2"]
    assert (await look_up("page.internet.test", "AAAA", Endpoint(US, PORT))).answer == []
    found = await look_up(f"x.{ZONE}", "A", Endpoint(JP, PORT))
    assert [record.address for record in found.answer[0]] == [JP]


async def test_what_nobody_knows_is_no_name():
    with pytest.raises(Useless, match="no such name"):
        await look_up("page.example.net", "A", Endpoint(US, PORT))


async def test_garbage_is_not_answered_and_breaks_nothing():
    authority = names.Authority(ATLAS)
    for data in (b"", b"\xff" * 30, dns.message.make_query("a.", "A").to_wire()[:12]):
        authority.datagram_received(data, ("127.0.0.1", 1))
    assert (await look_up("page.internet.test", "A", Endpoint(US, PORT))).rcode() == dns.rcode.NOERROR
