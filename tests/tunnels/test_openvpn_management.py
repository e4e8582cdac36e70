"""The protocol of OpenVPN's management interface."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from agent.config.credentials import Credentials
from agent.vpn.errors import TunnelFailed
from agent.vpn.openvpn.client_file import OpenVpnFile, Remote
from agent.vpn.openvpn.management import ManagementProtocol
from agent.vpn.openvpn.openvpn import OpenVpnDriver, socket_of
from agent.vpn.slots import slots_of
from model.endpoint import Endpoint

PUSH = (
    ">LOG:1,I,PUSH: Received control message: 'PUSH_REPLY,redirect-gateway def1,dhcp-option DNS 10.8.0.1,"
    "dhcp-option DNS 127.0.0.1,dhcp-option DNS nonsense,dhcp-option DNS6 fd00::1,ifconfig-ipv6 fd00::5/64 fd00::1,"
    "ifconfig 10.8.0.5 255.255.255.0'"
)


def receive_all(*lines, credentials=None):
    protocol = ManagementProtocol("vpn:1", credentials)
    answers = [answer for line in lines for answer in protocol.receive(line)]
    return protocol, answers


def test_hold_is_released():
    assert receive_all(">INFO:OpenVPN", ">HOLD:Waiting for hold release:0")[1] == ["state on", "log on", "hold release"]


def test_credentials_are_sent_on_request_and_quoted():
    _, answers = receive_all(
        ">PASSWORD:Need 'Auth' username/password",
        credentials=Credentials('a"b', 'c\\"\nsignal SIGTERM'.replace("\n", "")),
    )
    assert answers == ['username "Auth" "a\\"b"', 'password "Auth" "c\\\\\\"signal SIGTERM"']


def test_connected_state_has_addresses_and_pushed_resolvers():
    protocol, _ = receive_all(PUSH, ">STATE:1,GET_CONFIG,,,,,,", ">STATE:1,CONNECTED,SUCCESS,10.8.0.5,192.0.2.1,1194,,")
    assert protocol.connected
    assert protocol.failure is None
    assert protocol.resolvers == ["10.8.0.1", "fd00::1"]
    assert protocol.addresses == ["fd00::5", "10.8.0.5"]


@pytest.mark.parametrize(
    ("lines", "message", "slowly"),
    [
        ([">PASSWORD:Verification Failed: 'Auth'"], "the provider refuses the name and password", True),
        ([">STATE:1,EXITING,auth-failure,,,,,"], "the provider refuses the name and password", True),
        ([">PASSWORD:Need 'Auth' username/password"], "the provider asks for a name and password", True),
        ([">PASSWORD:Need 'Auth' username/password SC:1,code"], "the provider asks for a one-time password", True),
        ([">PASSWORD:Need 'Private Key' password"], "the file's key is encrypted", True),
        ([">FATAL:Cannot open TUN"], "OpenVPN gives up on vpn:1: Cannot open TUN", False),
        ([">STATE:1,CONNECTED,ERROR,,,,,"], "OpenVPN could not set up the interface (ERROR)", False),
        (
            [">LOG:1,N,TLS Error: handshake failed", ">STATE:1,EXITING,tls-error,,,,,"],
            "vpn:1 refuses the connection (TLS Error: handshake failed)",
            False,
        ),
        (
            [">STATE:1,CONNECTED,SUCCESS,10.8.0.5,,,,", ">STATE:1,RECONNECTING,ping-restart,,,,,"],
            "vpn:1 was lost (ping-restart)",
            False,
        ),
    ],
)
def test_failure_has_plain_reason(lines, message, slowly):
    protocol, _ = receive_all(*lines)
    assert not protocol.connected
    assert (protocol.failure.message, protocol.failure.retry_slowly) == (message, slowly)


def test_first_failure_reason_is_kept():
    protocol, _ = receive_all(">PASSWORD:Verification Failed: 'Auth'", ">STATE:1,EXITING,SIGTERM,,,,,")
    protocol.end()
    assert protocol.failure.message == "the provider refuses the name and password"


@pytest.mark.parametrize(
    "line", ["", ">", ">STATE", ">STATE:", ">STATE:1,CONNECTED", ">LOG:", ">LOG:1,N", "\x00", ">PASSWORD:"]
)
def test_garbled_lines_are_ignored(line):
    assert receive_all(line)[1] == []


class ProcessEnd(asyncio.Event):
    """The event of a process's end, which counts how often it is read."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return super().is_set()


async def test_messages_are_read_after_openvpn_has_ended(tmp_path, monkeypatch, until):
    ended = ProcessEnd()
    monkeypatch.setattr("agent.vpn.openvpn.openvpn.start_child", lambda *_: SimpleNamespace(ended=ended))
    file = OpenVpnFile("vpn", (), (), (), needs_credentials=False)
    resolve = AsyncMock(return_value=["192.0.2.1"])
    tunnel = OpenVpnDriver(file, Remote(Endpoint("vpn", 1194), "udp"), None, tmp_path, resolve)
    slot, _ = slots_of("eptun9")
    coming_up = asyncio.create_task(tunnel.up(slot))
    await until((tmp_path / socket_of(slot)).exists)
    reader, writer = await asyncio.open_unix_connection(tmp_path / socket_of(slot))
    writer.write(b">HOLD:Waiting for hold release:0\n")
    assert await reader.readline() == b"state on\n"

    ended.set()
    before = ended.looks
    await until(lambda: ended.looks > before + 1)
    writer.write(b">STATE:1,EXITING,auth-failure,,,,,\n")
    with pytest.raises(TunnelFailed, match="the provider refuses the name and password"):
        await coming_up
    writer.write_eof()
    assert await reader.read() == b"log on\nhold release\n"
    writer.close()
    tunnel._management_server.close()
