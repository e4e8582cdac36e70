"""The rights and programs that a tunnel and a kill switch need, checked before anything is started."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from agent.config.settings import ExitSettings
from agent.vpn.driver import Capability, DriverSpec
from agent.vpn.errors import NotEquipped
from agent.vpn.registry import driver_of

NFT: Final[Mapping[str, str]] = {"nft": "nftables"}
IP: Final[Mapping[str, str]] = {"ip": "iproute2"}
_STATUS: Final = Path("/proc/self/status")
_TUN: Final = Path("/dev/net/tun")
_PROBE: Final = "ep-probe"


def require_for(exit_: ExitSettings) -> None:
    """Check what the exit's tunnel and kill switch need. Raises NotEquipped."""
    drivers = [driver_of(each) for each in exit_.servers]
    programs = {**(NFT if exit_.kill_switch else {}), **(IP if drivers else {})}
    capabilities = {Capability.NET_ADMIN}
    for driver in drivers:
        programs.update(driver.programs)
        capabilities |= driver.capabilities
    # a tunnel that somebody else brings up needs neither rights nor programs, only its kill switch does
    require(programs, capabilities, otherwise="" if drivers else ", or with --no-kill-switch and possible leaks")
    require_tun(drivers)


def require(
    programs: Mapping[str, str],
    capabilities: Iterable[Capability] = (Capability.NET_ADMIN,),
    *,
    otherwise: str = "",
) -> None:
    """Check this process's capabilities, and programs by their Debian packages. Raises NotEquipped for one that is missing.

    `otherwise` ends the hint with another way to start.
    """
    status = _STATUS.read_text()
    for capability in capabilities:
        if not has_capability(status, capability):
            raise NotEquipped(
                f"the agent may not change the network (it lacks CAP_{capability.name})",
                hint=f"run it as root, or its container with --cap-add {capability.name}{otherwise}",
            )
    for program, package in programs.items():
        if shutil.which(program) is None:
            raise NotEquipped(f"{program} is not installed", hint=f"install {package}{otherwise}")


def require_tun(drivers: Iterable[DriverSpec]) -> None:
    """Check for /dev/net/tun, unless the kernel makes another kind of interface for each driver. Raises NotEquipped."""
    if _TUN.exists():
        return
    for driver in drivers:
        if not any(_kernel_makes(kind) for kind in sorted(driver.link_kinds - {"tun"})):
            raise NotEquipped(
                f"/dev/net/tun is missing, which {driver.file_format} needs here",
                hint="run the container with --device /dev/net/tun, or load the host's kernel module tun",
            )


def _kernel_makes(kind: str) -> bool:
    """Return True if the kernel makes interfaces of a kind, by making one for a moment."""
    if subprocess.run(("ip", "link", "add", _PROBE, "type", kind), capture_output=True, check=False).returncode:
        return False
    subprocess.run(("ip", "link", "delete", _PROBE), capture_output=True, check=False)
    return True


def has_capability(status: str, capability: Capability) -> bool:
    """Return True if a /proc/PID/status shows the capability among the effective ones."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> capability & 1)
    return False
