"""The warning of tunnel files whose keys others may read."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.vpn.servers import read_servers

KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
WIREGUARD = (
    f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.2/32\n"
    f"[Peer]\nPublicKey = {KEY}\nEndpoint = 192.0.2.1:1\nAllowedIPs = 0.0.0.0/0\n"
)
OPENVPN = "client\ndev tun\nremote 192.0.2.1 1194 udp\n<ca>\nx\n</ca>\n"


@pytest.mark.parametrize(
    ("name", "text", "mode", "warns"),
    [
        ("wg.conf", WIREGUARD, 0o640, True),
        ("wg.conf", WIREGUARD, 0o604, True),
        ("wg.conf", WIREGUARD, 0o600, False),
        ("wg.conf", WIREGUARD, 0o400, False),
        ("us.ovpn", OPENVPN + "<cert>\nx\n</cert>\n<key>\nx\n</key>\n", 0o644, True),
    ],
)
def test_keys_that_others_may_read_are_warned_of(name, text, mode, warns, tmp_path):
    file = tmp_path / name
    file.write_text(text)
    file.chmod(mode)
    with capture_logs() as logs:
        read_servers([file], None)
    expected = {"file": str(file), "mode": f"{mode:03o}", "hint": f"chmod 600 {file}"}
    assert [{key: entry[key] for key in expected} for entry in logs] == [expected] * warns
