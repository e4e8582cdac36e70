"""Names of servers, and as much of DNS as they need."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.net import dns_probe, host_lookup
from agent.vpn.errors import NameUnknown

ANSWER = (
    b"\0\7\x81\x80\0\1\0\3\0\0\0\0\3vpn\7example\0\0\1\0\1"
    b"\xc0\x0c\0\5\0\1\0\0\0\x05\0\4\1x\xc0\x10"
    b"\1x\xc0\x10\0\1\0\1\0\0\0\x05\0\4\xc0\0\2\x01"
    b"\1x\xc0\x10\0\x1c\0\1\0\0\0\x05\0\x10\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1"
)


def test_addresses_are_read_past_names_of_every_form():
    assert dns_probe.decode_addresses(7, ANSWER) == ["192.0.2.1", "2001:db8::1"]


def test_another_question_s_answer_is_none():
    with pytest.raises(dns_probe.DnsUnanswered):
        dns_probe.decode_addresses(8, ANSWER)


@given(st.integers(0, len(ANSWER)), st.binary(max_size=40))
def test_garbage_is_unanswered_and_nothing_worse(cut, garbage):
    with contextlib.suppress(dns_probe.DnsUnanswered):
        dns_probe.decode_addresses(7, ANSWER[:cut] + garbage)


async def test_a_resolver_that_is_not_there_is_told_of():
    with pytest.raises(dns_probe.DnsUnanswered):
        await dns_probe.ask("127.0.0.1", "x", dns_probe.A, within_s=0.5, port=1)


@pytest.fixture
def files(monkeypatch, tmp_path):
    """`files(hosts, resolvers)`: what /etc/hosts and /etc/resolv.conf hold."""

    def write(hosts="", resolvers=""):
        for name, text in (("HOSTS", hosts), ("RESOLVERS", resolvers)):
            (tmp_path / name).write_text(text)
            monkeypatch.setattr(host_lookup, name, tmp_path / name)

    return write


async def test_an_address_is_itself():
    assert await host_lookup.resolve("::ffff:192.0.2.1") == ("192.0.2.1",)


async def test_the_hosts_file_is_asked_first(files):
    files("127.0.0.1 localhost\n192.0.2.7 other VPN.example # x\n2001:db8::7 vpn.example\nbad vpn.example\n")
    assert await host_lookup.resolve("vpn.Example.") == ("192.0.2.7", "2001:db8::7")


async def test_a_resolver_outside_is_never_asked(files, monkeypatch):
    asked = []

    async def ask(resolver, *_, **__):
        asked.append(resolver)
        return []

    monkeypatch.setattr(dns_probe, "ask", ask)
    files(resolvers="nameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    with pytest.raises(NameUnknown, match="a resolver outside must not be asked; write its address") as raised:
        await host_lookup.resolve("vpn.example")
    assert raised.value.for_good
    assert asked == []


async def test_a_resolver_on_loopback_is_asked_and_may_know_it_later(files, monkeypatch):
    class Resolver(asyncio.DatagramProtocol):
        knows = False

        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            number = data[:2]
            asks_for_address = data[-4:] == b"\0\1\0\1"
            known = self.knows and asks_for_address
            reply = number + (ANSWER[2:] if known else b"\x81\x83\0\0\0\0\0\0\0\0")
            self.transport.sendto(reply, addr)

    loop = asyncio.get_running_loop()
    transport, resolver = await loop.create_datagram_endpoint(Resolver, local_addr=("127.0.0.1", 0))
    real, port = dns_probe.ask, transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns_probe, "ask", lambda *given, **more: real(*given, **more, port=port))
    files(resolvers="nameserver 192.0.2.53\nnameserver 127.0.0.1\n")
    with pytest.raises(NameUnknown) as raised:
        await host_lookup.resolve("vpn.example")
    assert not raised.value.for_good
    resolver.knows = True
    assert await host_lookup.resolve("vpn.example") == ("192.0.2.1", "2001:db8::1")
    transport.close()
