"""What a tunnel and a kill switch need of the machine, looked at before anything is started."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent.vpn.errors import NotEquipped

PACKAGES: Final = {
    "ip": "iproute2",
    "nft": "nftables",
    "wg": "wireguard-tools",
    "openvpn": "openvpn",
}
_CAP_NET_ADMIN: Final = 12
_STATUS: Final = Path("/proc/self/status")


def require(programs: Iterable[str]) -> None:
    """Raises NotEquipped when this process may not change the network, or a program is missing."""
    if not may_administer(_STATUS.read_text()):
        raise NotEquipped(
            "the agent may not change the network (it lacks CAP_NET_ADMIN)",
            hint="run it as root, or its container with --cap-add NET_ADMIN",
        )
    for program in programs:
        if shutil.which(program) is None:
            raise NotEquipped(f"{program} is not installed", hint=f"install {PACKAGES.get(program, program)}")


def may_administer(status: str) -> bool:
    """Whether a /proc/PID/status shows CAP_NET_ADMIN among the effective capabilities."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> _CAP_NET_ADMIN & 1)
    return False
