"""The tunnel drivers that an agent has."""

from __future__ import annotations

from typing import Final

from agent.config.settings import TunnelServer
from agent.vpn.driver import DriverSpec
from agent.vpn.errors import BadTunnelFile
from agent.vpn.openvpn.openvpn import OPENVPN
from agent.vpn.wireguard.wireguard import WIREGUARD

DRIVERS: Final[tuple[DriverSpec, ...]] = (WIREGUARD, OPENVPN)
"""In the order in which their patterns are tried."""
LINK_KINDS: Final = frozenset(kind for each in DRIVERS for kind in each.link_kinds)
"""Kinds of interfaces that any driver makes."""


def driver_of(server: TunnelServer) -> DriverSpec:
    """Return the driver whose file named the server."""
    return next(each for each in DRIVERS if each.name == server.driver)


def recognise(name: str, text: str) -> DriverSpec:
    """Return the driver whose file this is: by its extension, else by its text. Raises BadTunnelFile."""
    for each in DRIVERS:
        if each.extension is not None and name.lower().endswith(each.extension):
            return each
    for each in DRIVERS:
        if each.pattern.search(text):
            return each
    formats = [each.file_format for each in DRIVERS]
    what = "is neither " + " nor ".join(f"{each}'s" for each in formats)
    raise BadTunnelFile(name, what, hint=f"name a file of {' or '.join(formats)}")
