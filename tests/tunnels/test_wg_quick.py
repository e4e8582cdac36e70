"""The parser of wg-quick's files."""

from __future__ import annotations

import base64
from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.vpn.errors import BadTunnelFile
from agent.vpn.servers import read_servers
from agent.vpn.wireguard.wg_quick import parse_wg_quick
from model.endpoint import Endpoint

OWN, THEIRS, SHARED, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3, 4))
INTERFACE = f"[Interface]\nPrivateKey = {OWN}\nAddress = 10.64.0.2/32\n"
PEER = f"[Peer]\nPublicKey = {THEIRS}\nEndpoint = vpn.example.net:51820\nAllowedIPs = 0.0.0.0/0\n"


def parse(text):
    return parse_wg_quick(text, "wg0.conf")


def refusal(text):
    with pytest.raises(BadTunnelFile) as raised:
        parse(text)
    for key in (OWN, THEIRS, SHARED, OTHER):
        assert key not in str(raised.value)
    assert raised.value.hint
    return str(raised.value)


def test_all_settings_of_file_are_read():
    file = parse(
        f"\n# a comment\n[Interface]\nPrivateKey={OWN} # mine\nAddress = 10.64.0.2/32, fd00::2/128\nAddress = 10.64.0.3\n"
        "DNS = 10.64.0.1, fd00::1, corp.example\nDNS = 10.64.0.1\nMTU = 1380\nListenPort = 51000\nFwMark = 0x33\n"
        f"Table = auto\n\n[Peer]\nPublicKey = {THEIRS}\nPresharedKey = {SHARED}\nEndpoint = [2001:db8::1]:51820\n"
        "AllowedIPs = 0.0.0.0/0, ::/0\nAllowedIPs = 10.1.2.3/8\nPersistentKeepalive = 10\n"
    )

    assert file.private_key == OWN
    assert file.addresses == tuple(map(ip_interface, ("10.64.0.2/32", "fd00::2/128", "10.64.0.3/32")))
    assert file.resolvers == ("10.64.0.1", "fd00::1")
    assert (file.mtu, file.listen_port) == (1380, 51000)
    (peer,) = file.peers
    assert (peer.public_key, peer.preshared_key) == (THEIRS, SHARED)
    assert peer.endpoint == Endpoint("2001:db8::1", 51820)
    assert peer.allowed == tuple(map(ip_network, ("0.0.0.0/0", "::/0", "10.0.0.0/8")))
    assert peer.keepalive_s == 10


def test_case_line_ends_and_byte_order_mark_do_not_matter(tmp_path):
    text = "\ufeff" + (INTERFACE + PEER).upper().replace(OWN.upper(), OWN).replace(THEIRS.upper(), THEIRS)
    path = tmp_path / "wg0.conf"
    path.write_bytes(text.replace("\n", "\r\n").encode())

    (server,) = read_servers([path], None)
    assert server.config.peers == parse(INTERFACE + PEER.replace("vpn.example.net", "VPN.EXAMPLE.NET")).peers


@pytest.mark.parametrize(("given", "taken"), [("25", 15), ("5", 5), ("0", 15), ("off", 15), (None, 15)])
def test_keepalive_interval_is_limited(given, taken):
    line = "" if given is None else f"PersistentKeepalive = {given}\n"
    assert parse(INTERFACE + PEER + line).peers[0].keepalive_s == taken


def test_main_peer_has_default_route():
    other = f"[Peer]\nPublicKey = {OTHER}\nEndpoint = 192.0.2.1:1\nAllowedIPs = 10.0.0.0/8\n"
    assert parse(INTERFACE + other + PEER).main_peer.public_key == THEIRS


def test_repr_of_file_shows_no_key():
    shown = repr(parse(INTERFACE + PEER + f"PresharedKey = {SHARED}\n"))
    assert OWN not in shown
    assert SHARED not in shown


@pytest.mark.parametrize("command", ["PreUp", "PostUp", "PreDown", "postdown", "SaveConfig"])
def test_commands_in_file_are_refused(command):
    message = refusal(INTERFACE + f"{command} = iptables -F\n" + PEER)
    assert message.startswith(
        f"wg0.conf line 4: {command} is refused: an agent runs no commands out of a provider's file"
    )
    assert message.endswith("remove the line")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wg0.conf: has no [Interface]"),
        (INTERFACE, "wg0.conf: has no [Peer]"),
        (INTERFACE + PEER + INTERFACE, "wg0.conf line 8: has a second [Interface]"),
        ("Address = 10.0.0.1\n" + INTERFACE + PEER, "line 1: comes before any section"),
        (INTERFACE + "[Wire]\n" + PEER, "line 4: is no section"),
        (INTERFACE + "[Peer\n", "line 4: is no section"),
        (INTERFACE + f"{OTHER}\n" + PEER, "line 4: is no `Key = value`"),
        (INTERFACE + f"{OTHER}{OTHER}\n" + PEER, "line 4: this is no setting of [Interface]"),
        (INTERFACE + "hello\n" + PEER, "line 4: is no `Key = value`"),
        (INTERFACE + "MTU =\n" + PEER, "line 4: is no `Key = value`"),
        (INTERFACE + "Colour = red\n" + PEER, "line 4: Colour is no setting of [Interface]"),
        (INTERFACE + "Endpoint = a:1\n" + PEER, "line 4: Endpoint is no setting of [Interface]"),
        (INTERFACE + f"PrivateKey = {OTHER}\n" + PEER, "line 4: PrivateKey is given a second time"),
        (INTERFACE.replace(OWN, OWN[4:]) + PEER, "line 2: PrivateKey has 29 bytes instead of 32"),
        (INTERFACE.replace(OWN, OWN[:-1]) + PEER, "line 2: PrivateKey is not base64"),
        (INTERFACE.replace(OWN, "ключ") + PEER, "line 2: PrivateKey is not base64"),
        (INTERFACE.replace("10.64.0.2/32", "10.64.0.256") + PEER, "line 3: Address is no IP address"),
        (INTERFACE.replace("10.64.0.2/32", "10.64.0.2,") + PEER, "line 3: Address is no IP address"),
        (INTERFACE.replace("Address = 10.64.0.2/32\n", "") + PEER, "[Interface] has no Address"),
        (INTERFACE.replace(f"PrivateKey = {OWN}\n", "") + PEER, "line 1: [Interface] has no PrivateKey"),
        (INTERFACE + "DNS = 1.1.1.1.1\n" + PEER, "line 4: DNS is no IP address"),
        (INTERFACE + "DNS = 127.0.0.53\n" + PEER, "line 4: DNS is not behind the tunnel"),
        (INTERFACE + "MTU = 100\n" + PEER, "line 4: MTU is no number from 576"),
        (INTERFACE + "ListenPort = 65536\n" + PEER, "line 4: ListenPort is no number from 0 to 65535"),
        (INTERFACE + "FwMark = red\n" + PEER, "line 4: FwMark is no number"),
        (INTERFACE + "Table = off\n" + PEER, "line 4: Table is off, and an exit without routes carries nothing"),
        (INTERFACE + PEER.replace("0.0.0.0/0", "0.0.0.0/33"), "line 7: AllowedIPs is no network"),
        (INTERFACE + PEER.replace("AllowedIPs = 0.0.0.0/0\n", ""), "line 4: [Peer] has no AllowedIPs"),
        (INTERFACE + PEER.replace("Endpoint = vpn.example.net:51820\n", ""), "line 4: [Peer] has no Endpoint"),
        (INTERFACE + PEER.replace(":51820", ""), "line 6: Endpoint is not host:port"),
        (INTERFACE + PEER.replace(f"PublicKey = {THEIRS}\n", ""), "line 4: [Peer] has no PublicKey"),
        (INTERFACE + PEER + "PersistentKeepalive = -1\n", "line 8: PersistentKeepalive is no number"),
        (INTERFACE + PEER + PEER.replace(THEIRS, OTHER), "AllowedIPs gives 0.0.0.0/0 to two peers"),
        (INTERFACE + PEER + PEER.replace("AllowedIPs = 0.0.0.0/0\n", ""), "line 8: [Peer] has no AllowedIPs"),
    ],
)
def test_invalid_file_is_refused_with_line_and_without_key(text, message):
    assert message in refusal(text)


@given(
    st.lists(st.sampled_from([*INTERFACE.splitlines(), *PEER.splitlines(), "=", "[", "x=y", "DNS=a,,b"]) | st.text())
)
def test_any_file_is_parsed_or_refused(lines):
    message = what_is_wrong("\n".join(lines))
    assert message is None or message.hint
    assert OWN not in str(message)


def what_is_wrong(text):
    try:
        parse(text)
    except BadTunnelFile as error:
        return error
    return None
