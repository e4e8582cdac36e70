"""The rules of the kill switch, and the check of the kernel's table."""

from __future__ import annotations

import pytest

from agent.config.settings import ExitSettings
from agent.vpn.driver import Capability
from agent.vpn.errors import NotEquipped
from agent.vpn.firewall.nftables import compare
from agent.vpn.firewall.rules import AllowedPeer, AllowedTraffic, output_rules, render
from agent.vpn.openvpn.openvpn import OPENVPN
from agent.vpn.requirements import NFT, has_capability, require, require_for, require_tun
from agent.vpn.wireguard.wireguard import WIREGUARD

OPENINGS = AllowedTraffic(
    interfaces=("ep0", "ep0-b"),
    ports=(8443, 9902),
    provider=frozenset({AllowedPeer("192.0.2.1", 51820, "udp"), AllowedPeer("2001:db8::1", 443, "tcp")}),
    control=frozenset({AllowedPeer("10.0.0.9", 8000, "tcp")}),
)


def test_rules_accept_allowed_traffic_alone():
    assert render(OPENINGS).splitlines() == [
        "add table inet exitplane",
        "delete table inet exitplane",
        "table inet exitplane {",
        "  chain output {",
        "    type filter hook output priority 0; policy drop;",
        '    meta mark 0x4553 oifname != { "ep0", "ep0-b" } drop',
        '    oifname "lo" accept',
        '    oifname { "ep0", "ep0-b" } accept',
        "    ip daddr 192.0.2.1 udp dport 51820 meta mark 0x4550 accept",
        "    ip6 daddr 2001:db8::1 tcp dport 443 meta mark 0x4550 accept",
        "    ip daddr 10.0.0.9 tcp dport 8000 meta mark 0x4550 accept",
        "    ct state established ct direction reply tcp sport 8443 accept",
        "    ct state established ct direction reply tcp sport 9902 accept",
        "    ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
        "  }",
        "  chain forward {",
        "    type filter hook forward priority 0; policy drop;",
        "  }",
        "}",
    ]


def test_only_agent_packets_need_mark_with_tunnel_of_somebody_else():
    rules = output_rules(AllowedTraffic(("wg0",), (1,), OPENINGS.provider, OPENINGS.control, marked=False))
    assert [rule for rule in rules if "mark 0x4550" in rule] == [
        "ip daddr 10.0.0.9 tcp dport 8000 meta mark 0x4550 accept"
    ]


@pytest.mark.parametrize("name", ["", "*", 'a" accept; "', "a b", "a\nb", "a/b"])
def test_interface_name_cannot_inject_rule(name):
    with pytest.raises(ValueError, match="no interface's name"):
        render(AllowedTraffic((name,), (1,), frozenset(), frozenset()))


@pytest.mark.parametrize("way", [("x", 1, "udp"), ("192.0.2.1", 0, "udp"), ("192.0.2.1", 1, "icmp")])
def test_allowed_peer_needs_address_port_and_protocol(way):
    with pytest.raises(ValueError, match=r"is no peer|does not appear"):
        AllowedPeer(*way)


def chain(name, policy="drop"):
    return {"chain": {"name": name, "hook": name, "policy": policy}}


@pytest.mark.parametrize(
    ("listed", "failure"),
    [
        ([chain("output"), chain("forward"), {"rule": {}}], None),
        ([chain("output"), chain("forward")], "it holds 0 rules instead of 1"),
        ([chain("output"), chain("forward"), {"rule": {}}, {"rule": {}}], "it holds 2 rules instead of 1"),
        ([chain("output", "accept"), chain("forward"), {"rule": {}}], "the chain output drops nothing"),
        ([chain("output"), {"rule": {}}], "the chain forward drops nothing"),
        ([chain("output"), chain("forward"), {"chain": {"name": "x"}}, {"rule": {}}], "it holds 1 rules instead of 1"),
        ([], "the chain output drops nothing"),
    ],
)
def test_compare_finds_difference_to_kernel_table(listed, failure):
    assert compare(listed, 1) == failure


def test_missing_capability_is_named_with_hint(monkeypatch, tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t00000000a80425fb\n")
    monkeypatch.setattr("agent.vpn.requirements._STATUS", status)
    with pytest.raises(NotEquipped, match=r"lacks CAP_NET_ADMIN.*--cap-add NET_ADMIN"):
        require({})
    assert has_capability("CapEff:\t00000000a80435fb\n", Capability.NET_ADMIN)


def test_exit_without_rights_may_name_absence_of_kill_switch(monkeypatch):
    monkeypatch.setattr("agent.vpn.requirements.has_capability", lambda *_: False)
    exit_ = ExitSettings("us", "192.0.2.3", 8443, tunnel_interface="wg0", kill_switch=True)
    with pytest.raises(NotEquipped, match=r"--cap-add NET_ADMIN, or with --no-kill-switch"):
        require_for(exit_)


def test_missing_tun_device_is_named_unless_kernel_has_wireguard(monkeypatch, tmp_path):
    monkeypatch.setattr("agent.vpn.requirements._TUN", tmp_path / "tun")
    monkeypatch.setattr("agent.vpn.requirements._kernel_makes", lambda kind: kind == "wireguard")
    require_tun([WIREGUARD])
    with pytest.raises(NotEquipped, match=r"/dev/net/tun is missing.*--device /dev/net/tun"):
        require_tun([WIREGUARD, OPENVPN])
    (tmp_path / "tun").touch()
    require_tun([OPENVPN])


def test_missing_program_is_named_with_package(monkeypatch):
    monkeypatch.setattr("agent.vpn.requirements.has_capability", lambda *_: True)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotEquipped, match="nft is not installed; install nftables"):
        require(NFT)
