"""Zones that identify resolvers: valid answers, and every kind of unusable one."""

from __future__ import annotations

from contextlib import suppress

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.option_parsing import BadSetting
from agent.egress.dns_leak import NAMES_PER_RESOLVER, query_zone
from agent.egress.resolvers import read_resolvers
from agent.egress.types import Location, UnusableAnswer
from agent.egress.whoami_dns import ResolverSeen, identify_resolver, parse_resolver, parse_zone
from agent.net import dns_client
from agent.net.dns_client import BadDnsAnswer, DnsAnswer, NoDnsAnswer, query
from model.endpoint import Endpoint
from tests.agent.egress.conftest import an_exit, answering

ZONE = "who.example.net"


@pytest.fixture
def short_dns_timeouts(monkeypatch):
    """Shorten the wait for silent resolvers, with three tries because the machine may be busy."""
    monkeypatch.setattr(dns_client, "WAITS_S", (0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("records", "resolver_seen"),
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
async def test_zone_identifies_resolver(make_resolver, records, resolver_seen):
    resolver = await make_resolver(answering(*records))
    assert await identify_resolver(ZONE, resolver.endpoint) == resolver_seen


async def test_each_query_uses_a_new_name(make_resolver):
    resolver = await make_resolver(answering("TXT 192.0.2.53"))
    assert await query_zone(ZONE, [resolver.endpoint]) == [("127.0.0.1", ResolverSeen("192.0.2.53"))]
    names = [name for name, _ in resolver.queries]
    assert len(set(names)) == len(names) == NAMES_PER_RESOLVER
    assert all(name.endswith(f".{ZONE}") for name in names)


@pytest.mark.parametrize(
    ("zone", "record"),
    [
        ("whoami.akamai.net", "A 192.0.2.53"),
        ("o-o.myaddr.l.google.com", 'TXT "192.0.2.53"'),
    ],
)
async def test_public_zone_is_queried_by_its_one_name(make_resolver, zone, record):
    resolver = await make_resolver(answering(record))
    assert await identify_resolver(zone, resolver.endpoint) == ResolverSeen("192.0.2.53")
    assert resolver.queries == [(zone, record.split()[0])]


def test_client_subnet_is_not_taken_for_resolver():
    query = dns.message.make_query("o-o.myaddr.l.google.com", "TXT")
    (wire,) = answering('TXT "edns0-client-subnet 203.0.113.0/24"', 'TXT "192.0.2.53"')(query)
    assert parse_resolver(DnsAnswer.of(dns.message.from_wire(wire))) == ResolverSeen("192.0.2.53")


def failing(code):
    def reply(query):
        answer = dns.message.make_response(query)
        answer.set_rcode(code)
        return [answer.to_wire()]

    return reply


def mangled(change):
    def reply(query):
        (wire,) = answering("TXT 192.0.2.53")(query)
        return change(wire)

    return reply


def another_question(query):
    return answering("TXT 192.0.2.53")(dns.message.make_query("other.example.net", "TXT", id=query.id))


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (failing(dns.rcode.NXDOMAIN), "it says that there is no such name"),
        (failing(dns.rcode.SERVFAIL), "it answers SERVFAIL"),
        (failing(dns.rcode.REFUSED), "it answers REFUSED"),
        (answering(), "its answer names no resolver"),
        (answering("TXT nonsense"), "its answer names no resolver"),
        (answering('TXT "ip=999.1.1.1"'), "its answer names no resolver"),
        (answering('TXT "ip=nowhere" "192.0.2.53"'), "its answer names no resolver"),
        (mangled(lambda _: [b"\xff" * 40]), "it answers what is no DNS message"),
        (mangled(lambda wire: [wire[:20]]), "it answers what is no DNS message"),
        (mangled(lambda _: [b"\0"]), "it answers what is no DNS message"),
        (mangled(lambda wire: [bytes([wire[0] ^ 1]) + wire[1:]]), "it answers another question than was asked"),
        (another_question, "it answers another question than was asked"),
        (lambda query: [query.to_wire()], "it answers another question than was asked"),
        (mangled(lambda _: []), "it does not answer in time"),
    ],
)
@pytest.mark.usefixtures("short_dns_timeouts")
async def test_unusable_dns_answer_has_reason(make_resolver, reply, why):
    resolver = await make_resolver(reply)
    with pytest.raises(UnusableAnswer, match=why):
        await identify_resolver(ZONE, resolver.endpoint)


async def test_forged_answer_does_not_hide_true_one(make_resolver):
    resolver = await make_resolver(mangled(lambda wire: [b"\0", bytes([wire[0] ^ 1]) + wire[1:], wire]))
    assert await identify_resolver(ZONE, resolver.endpoint) == ResolverSeen("192.0.2.53")


async def test_lost_query_is_retried(make_resolver, monkeypatch):
    monkeypatch.setattr(dns_client, "WAITS_S", (0.1, 60))
    resolver = await make_resolver(lambda _: [])
    valid = answering("TXT 192.0.2.53")
    resolver.reply = lambda query: valid(query) if len(resolver.queries) > 1 else []
    assert await identify_resolver(ZONE, resolver.endpoint) == ResolverSeen("192.0.2.53")


async def test_unreachable_resolver_is_reported(make_resolver):
    resolver = await make_resolver(answering())
    resolver.transport.close()
    with pytest.raises(NoDnsAnswer, match="it cannot be reached"):
        await query(ZONE, "TXT", Endpoint("127.0.0.1", 1))


def truncated(query):
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.TC
    return [answer.to_wire()]


def framed(query):
    (wire,) = answering("TXT 192.0.2.53")(query)
    return [len(wire).to_bytes(2, "big"), wire]


async def test_truncated_answer_is_retried_by_tcp(make_resolver):
    resolver = await make_resolver(truncated, framed)
    assert await identify_resolver(ZONE, resolver.endpoint) == ResolverSeen("192.0.2.53")


@pytest.mark.parametrize(
    ("by_tcp", "why"),
    [
        (lambda _: [], "its answer is cut short"),
        (lambda _: [b"\0"], "its answer is cut short"),
        (lambda _: [b"\xff\xff", b"short"], "its answer is cut short"),
        (lambda _: [b"\0\4", b"junk"], "it answers what is no DNS message"),
    ],
)
async def test_incomplete_tcp_answer_is_unusable(make_resolver, by_tcp, why):
    resolver = await make_resolver(truncated, by_tcp)
    with pytest.raises(UnusableAnswer, match=why):
        await identify_resolver(ZONE, resolver.endpoint)


QUERY = dns.message.make_query(f"0.{ZONE}", "TXT", id=7)
TRUE = answering('TXT "ip=192.0.2.53" "country=us"')(QUERY)[0]


@given(st.binary(max_size=200) | st.tuples(st.integers(0, len(TRUE) - 1), st.binary(max_size=8)))
def test_any_bytes_raise_nothing_but_unusable_answer(change):
    """Parse random bytes, and a valid answer with some bytes replaced."""
    if isinstance(change, tuple):
        position, bytes_ = change
        change = TRUE[:position] + bytes_ + TRUE[position + len(bytes_) :]
    with suppress(UnusableAnswer, BadDnsAnswer):
        parse_resolver(DnsAnswer.of(dns_client.parse_answer(change, QUERY)))


@pytest.mark.parametrize(
    "text", ["", "net", "a..b", "x" * 64 + ".net", ".".join(["x" * 60] * 4), "ü.example.net", "a b.\x1b.net"]
)
def test_invalid_zone_is_refused(text):
    with pytest.raises(BadSetting, match="--dns-zone"):
        parse_zone("--dns-zone", text)


def test_zone_is_canonical():
    assert parse_zone("--dns-zone", "Who.Example.NET.") == "who.example.net"


def test_configured_resolvers_win_over_resolv_conf(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# x\nsearch a\nnameserver 10.0.0.1\nnameserver\nnameserver fe80::1%eth0\noptions ndots:1\nnameserver x\n"
    )
    hosts = [each.host for each in read_resolvers(an_exit(), path)]
    assert hosts == ["10.0.0.1", "fe80::1%eth0"]
    assert [str(each) for each in read_resolvers(an_exit(resolvers=("10.9.9.9",)), path)] == ["10.9.9.9:53"]
    path.write_text("nameserver 10.0.0.1\n" * 9)
    assert len(read_resolvers(an_exit(), path)) == 3
    path.unlink()
    assert [str(each) for each in read_resolvers(an_exit(), path)] == ["127.0.0.1:53"]
