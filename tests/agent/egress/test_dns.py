"""Asking who resolves: every answer that a zone may give, and every one that is none."""

from __future__ import annotations

from contextlib import suppress

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.option_parsing import BadSetting
from agent.egress.dns_leak import TRIES, ask_zone
from agent.egress.resolvers import resolvers_of
from agent.egress.types import Location, UnusableAnswer
from agent.egress.whoami_dns import ResolverSeen, read_asker, read_zone, reveal
from agent.net import dns_client
from agent.net.dns_client import BadDnsAnswer, DnsAnswer, NoDnsAnswer, query
from model.endpoint import Endpoint
from tests.agent.egress.conftest import an_exit, saying

ZONE = "who.example.net"


@pytest.fixture
def impatient(monkeypatch):
    """An answer of use is not waited for long; the others have three chances to arrive on a busy machine."""
    monkeypatch.setattr(dns_client, "WAITS_S", (0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("records", "asker"),
    [
        (["TXT 192.0.2.53"], ResolverSeen("192.0.2.53")),
        (
            ['TXT "ip=192.0.2.53" "country=US" "network=AS64500 Example"'],
            ResolverSeen("192.0.2.53", Location("us", None, "AS64500 Example")),
        ),
        (['TXT "ns" "192.0.2.53"'], ResolverSeen("192.0.2.53")),
        (["TXT 2001:DB8::53"], ResolverSeen("2001:db8::53")),
        (['TXT "country=nowhere" "ip=192.0.2.53"'], ResolverSeen("192.0.2.53")),
        (["A 192.0.2.53"], ResolverSeen("192.0.2.53")),
    ],
)
async def test_a_zone_tells_who_asked(make_resolver, records, asker):
    resolver = await make_resolver(saying(*records))
    assert await reveal(ZONE, resolver.endpoint) == asker


async def test_each_name_is_asked_for_once_and_never_again(make_resolver):
    resolver = await make_resolver(saying("TXT 192.0.2.53"))
    assert await ask_zone(ZONE, [resolver.endpoint]) == [("127.0.0.1", ResolverSeen("192.0.2.53"))]
    names = [name for name, _ in resolver.asked]
    assert len(set(names)) == len(names) == TRIES
    assert all(name.endswith(f".{ZONE}") for name in names)


@pytest.mark.parametrize(
    ("zone", "record"),
    [
        ("whoami.akamai.net", "A 192.0.2.53"),
        ("o-o.myaddr.l.google.com", 'TXT "192.0.2.53"'),
    ],
)
async def test_public_zones_have_one_name(make_resolver, zone, record):
    resolver = await make_resolver(saying(record))
    assert await reveal(zone, resolver.endpoint) == ResolverSeen("192.0.2.53")
    assert resolver.asked == [(zone, record.split()[0])]


def test_what_google_adds_of_the_client_is_not_taken_for_the_asker():
    query = dns.message.make_query("o-o.myaddr.l.google.com", "TXT")
    (wire,) = saying('TXT "edns0-client-subnet 203.0.113.0/24"', 'TXT "192.0.2.53"')(query)
    assert read_asker(DnsAnswer.of(dns.message.from_wire(wire))) == ResolverSeen("192.0.2.53")


def failing(code):
    def reply(query):
        answer = dns.message.make_response(query)
        answer.set_rcode(code)
        return [answer.to_wire()]

    return reply


def mangled(change):
    def reply(query):
        (wire,) = saying("TXT 192.0.2.53")(query)
        return change(wire)

    return reply


def another_question(query):
    return saying("TXT 192.0.2.53")(dns.message.make_query("other.example.net", "TXT", id=query.id))


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (failing(dns.rcode.NXDOMAIN), "it says that there is no such name"),
        (failing(dns.rcode.SERVFAIL), "it answers SERVFAIL"),
        (failing(dns.rcode.REFUSED), "it answers REFUSED"),
        (saying(), "it does not say who asked"),
        (saying("TXT nonsense"), "it does not say who asked"),
        (saying('TXT "ip=999.1.1.1"'), "it does not say who asked"),
        (saying('TXT "ip=nowhere" "192.0.2.53"'), "it does not say who asked"),
        (mangled(lambda _: [b"\xff" * 40]), "it answers what is no DNS message"),
        (mangled(lambda wire: [wire[:20]]), "it answers what is no DNS message"),
        (mangled(lambda _: [b"\0"]), "it answers what is no DNS message"),
        (mangled(lambda wire: [bytes([wire[0] ^ 1]) + wire[1:]]), "it answers another question than was asked"),
        (another_question, "it answers another question than was asked"),
        (lambda query: [query.to_wire()], "it answers another question than was asked"),
        (mangled(lambda _: []), "it does not answer in time"),
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_what_is_no_answer_is_named(make_resolver, reply, why):
    resolver = await make_resolver(reply)
    with pytest.raises(UnusableAnswer, match=why):
        await reveal(ZONE, resolver.endpoint)


async def test_a_forged_answer_does_not_keep_the_true_one_out(make_resolver):
    resolver = await make_resolver(mangled(lambda wire: [b"\0", bytes([wire[0] ^ 1]) + wire[1:], wire]))
    assert await reveal(ZONE, resolver.endpoint) == ResolverSeen("192.0.2.53")


async def test_a_question_that_is_lost_is_asked_again(make_resolver, monkeypatch):
    monkeypatch.setattr(dns_client, "WAITS_S", (0.1, 60))
    resolver = await make_resolver(lambda _: [])
    true = saying("TXT 192.0.2.53")
    resolver.reply = lambda query: true(query) if len(resolver.asked) > 1 else []
    assert await reveal(ZONE, resolver.endpoint) == ResolverSeen("192.0.2.53")


async def test_nobody_there_is_named(make_resolver):
    resolver = await make_resolver(saying())
    resolver.transport.close()
    with pytest.raises(NoDnsAnswer, match="it cannot be reached"):
        await query(ZONE, "TXT", Endpoint("127.0.0.1", 1))


def cut_short(query):
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.TC
    return [answer.to_wire()]


def framed(query):
    (wire,) = saying("TXT 192.0.2.53")(query)
    return [len(wire).to_bytes(2, "big"), wire]


async def test_an_answer_that_is_too_long_is_asked_for_by_tcp(make_resolver):
    resolver = await make_resolver(cut_short, framed)
    assert await reveal(ZONE, resolver.endpoint) == ResolverSeen("192.0.2.53")


@pytest.mark.parametrize(
    ("by_tcp", "why"),
    [
        (lambda _: [], "its answer is cut short"),
        (lambda _: [b"\0"], "its answer is cut short"),
        (lambda _: [b"\xff\xff", b"short"], "its answer is cut short"),
        (lambda _: [b"\0\4", b"junk"], "it answers what is no DNS message"),
    ],
)
async def test_a_long_answer_that_breaks_off_is_none(make_resolver, by_tcp, why):
    resolver = await make_resolver(cut_short, by_tcp)
    with pytest.raises(UnusableAnswer, match=why):
        await reveal(ZONE, resolver.endpoint)


QUERY = dns.message.make_query(f"0.{ZONE}", "TXT", id=7)
TRUE = saying('TXT "ip=192.0.2.53" "country=us"')(QUERY)[0]


@given(st.binary(max_size=200) | st.tuples(st.integers(0, len(TRUE) - 1), st.binary(max_size=8)))
def test_whatever_bytes_come_only_uselessness_does(change):
    """Any bytes, and a true answer with some bytes replaced."""
    if isinstance(change, tuple):
        position, bytes_ = change
        change = TRUE[:position] + bytes_ + TRUE[position + len(bytes_) :]
    with suppress(UnusableAnswer, BadDnsAnswer):
        read_asker(DnsAnswer.of(dns_client.parse_answer(change, QUERY)))


@pytest.mark.parametrize(
    "text", ["", "net", "a..b", "x" * 64 + ".net", ".".join(["x" * 60] * 4), "ü.example.net", "a b.\x1b.net"]
)
def test_what_is_no_zone_is_refused(text):
    with pytest.raises(BadSetting, match="--dns-zone"):
        read_zone("--dns-zone", text)


def test_a_zone_has_one_form():
    assert read_zone("--dns-zone", "Who.Example.NET.") == "who.example.net"


def test_those_resolvers_are_asked_that_the_exit_was_given(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# x\nsearch a\nnameserver 10.0.0.1\nnameserver\nnameserver fe80::1%eth0\noptions ndots:1\nnameserver x\n"
    )
    hosts = [each.host for each in resolvers_of(an_exit(), path)]
    assert hosts == ["10.0.0.1", "fe80::1%eth0"]
    assert [str(each) for each in resolvers_of(an_exit(resolvers=("10.9.9.9",)), path)] == ["10.9.9.9:53"]
    path.write_text("nameserver 10.0.0.1\n" * 9)
    assert len(resolvers_of(an_exit(), path)) == 3
    path.unlink()
    assert [str(each) for each in resolvers_of(an_exit(), path)] == ["127.0.0.1:53"]
