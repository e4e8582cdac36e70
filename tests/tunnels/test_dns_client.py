"""The DNS client, and the lookup of host names."""

from __future__ import annotations

import asyncio
import contextlib

import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.net import dns_client, host_lookup
from agent.net.dns_client import BadDnsAnswer, DnsAnswer, NoDnsAnswer, parse_answer
from agent.net.host_lookup import UnknownHost
from model.endpoint import Endpoint

ANSWER = (
    b"\0\7\x81\x80\0\1\0\3\0\0\0\0\3vpn\7example\0\0\1\0\1"
    b"\xc0\x0c\0\5\0\1\0\0\0\x05\0\4\1x\xc0\x10"
    b"\1x\xc0\x10\0\1\0\1\0\0\0\x05\0\4\xc0\0\2\x01"
    b"\1x\xc0\x10\0\x1c\0\1\0\0\0\x05\0\x10\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1"
)
QUESTION = dns.message.make_query("vpn.example", "A", id=7)


def test_parse_answer_reads_addresses_behind_compressed_names():
    assert DnsAnswer.of(parse_answer(ANSWER, QUESTION)).addresses == ("192.0.2.1", "2001:db8::1")


def test_parse_answer_refuses_answer_to_another_question():
    with pytest.raises(BadDnsAnswer):
        parse_answer(ANSWER, dns.message.make_query("vpn.example", "A", id=8))


@given(st.integers(0, len(ANSWER)), st.binary(max_size=40))
def test_parse_answer_raises_only_bad_answer_for_any_bytes(cut, garbage):
    with contextlib.suppress(BadDnsAnswer):
        DnsAnswer.of(parse_answer(ANSWER[:cut] + garbage, QUESTION))


async def test_query_raises_no_answer_without_resolver():
    with pytest.raises(NoDnsAnswer):
        await dns_client.query("x", dns_client.A, Endpoint("127.0.0.1", 1), waits_s=(0.5,))


@pytest.fixture
def files(monkeypatch, tmp_path):
    """Give `files(hosts, resolvers)`, which writes /etc/hosts and /etc/resolv.conf."""

    def write(hosts="", resolvers=""):
        for name, text in (("HOSTS", hosts), ("RESOLVERS", resolvers)):
            (tmp_path / name).write_text(text)
            monkeypatch.setattr(host_lookup, name, tmp_path / name)

    return write


async def test_resolve_returns_address_unchanged():
    assert await host_lookup.resolve("::ffff:192.0.2.1") == ("192.0.2.1",)


async def test_resolve_uses_hosts_file_first(files):
    files("127.0.0.1 localhost\n192.0.2.7 other VPN.example # x\n2001:db8::7 vpn.example\nbad vpn.example\n")
    assert await host_lookup.resolve("vpn.Example.") == ("192.0.2.7", "2001:db8::7")


async def test_resolve_never_asks_resolver_outside(files, monkeypatch):
    asked = []

    async def query(_, __, server, **___):
        asked.append(server.host)
        return DnsAnswer(dns.rcode.NOERROR)

    monkeypatch.setattr(dns_client, "query", query)
    files(resolvers="nameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    with pytest.raises(UnknownHost, match="a resolver outside must not be asked; write its address") as raised:
        await host_lookup.resolve("vpn.example")
    assert raised.value.permanent
    assert asked == []


async def test_resolve_asks_resolver_on_loopback_again(files, monkeypatch):
    class LearningResolver(asyncio.DatagramProtocol):
        knows = False

        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            number = data[:2]
            asks_for_address = data[-4:] == b"\0\1\0\1"
            known = self.knows and asks_for_address
            reply = number + (ANSWER[2:] if known else b"\x81\x83\0\1\0\0\0\0\0\0" + data[12:])
            self.transport.sendto(reply, addr)

    loop = asyncio.get_running_loop()
    transport, resolver = await loop.create_datagram_endpoint(LearningResolver, local_addr=("127.0.0.1", 0))
    monkeypatch.setattr(dns_client, "PORT", transport.get_extra_info("sockname")[1])
    files(resolvers="nameserver 192.0.2.53\nnameserver 127.0.0.1\n")
    with pytest.raises(UnknownHost) as raised:
        await host_lookup.resolve("vpn.example")
    assert not raised.value.permanent
    resolver.knows = True
    assert await host_lookup.resolve("vpn.example") == ("192.0.2.1", "2001:db8::1")
    transport.close()
