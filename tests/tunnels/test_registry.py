"""The registry of tunnel drivers, and what each driver says of itself."""

from __future__ import annotations

import pytest

from agent.vpn.registry import DRIVERS, driver_of
from agent.vpn.servers import read_servers
from tests.tunnels.test_openvpn_file import CERT, FILE, KEY
from tests.tunnels.test_wg_quick import INTERFACE, PEER

WITHOUT_PASSWORD = FILE.replace("auth-user-pass\n", "") + CERT + KEY


def test_driver_names_are_unique():
    assert len({each.name for each in DRIVERS}) == len(DRIVERS)


@pytest.mark.parametrize(
    ("name", "text", "server", "program"),
    [
        ("wg0.conf", INTERFACE + PEER, "vpn.example.net:51820", "wg"),
        ("a.ovpn", WITHOUT_PASSWORD, "vpn.example.net:1194/udp", "openvpn"),
    ],
)
def test_driver_of_server_makes_its_tunnel(tmp_path, name, text, server, program):
    (tmp_path / name).write_text(text)
    (found,) = read_servers([tmp_path / name], None)

    spec = driver_of(found)

    assert program in spec.programs
    assert spec.make(found, tmp_path, None).server == server
    assert found.contacts == ((found.contacts[0][0], "udp"),)
