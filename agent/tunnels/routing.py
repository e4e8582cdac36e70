"""Routes of a namespace whose one way out is a tunnel (ip-rule(8)).

    5251  to PROVIDER            main     the tunnel's own packets
    5252  to CONTROL PLANE       main     heartbeats, configuration, traces
    5253  from OWN ADDRESS       main     answers to gateways leave where their questions came in
    5254  everything             5253     the tunnel, and `unreachable` when there is none

Whatever comes to have a wrong route is stopped by the kill switch: these are for packets to arrive, that is for them not to leave.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, TypeAlias

from agent.tunnels.commands import run
from agent.tunnels.errors import NotEquipped

Network: TypeAlias = IPv4Network | IPv6Network

TABLE: Final = 5253
EVERYTHING: Final = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_TO_PROVIDER, _TO_CONTROL, _FROM_OWN, _ALL = 5251, 5252, 5253, 5254
_LAST_METRIC: Final = 4_278_198_272
_KINDS: Final = frozenset({"wireguard", "tun", "ovpn", "ovpn-dco"})
_SYSCTL: Final = Path("/proc/sys/net/ipv6/conf")
_FAR: Final = {4: ("192.0.2.1", socket.AF_INET), 6: ("2001:db8::1", socket.AF_INET6)}
"""Addresses that nobody has (RFC 5737, RFC 3849): a route to them is a route to everything."""


@dataclass(frozen=True, slots=True)
class Around:
    """IP addresses that are spoken to outside the tunnel."""

    provider: frozenset[str] = frozenset()
    control: frozenset[str] = frozenset()


async def lay(around: Around, interface: str) -> None:
    """Set the rules anew; `interface` is the tunnel's, there or not. Raises CommandFailed."""
    own = _addresses(json.loads(await run("ip", "-json", "address", "show")), interface)
    for version in _versions():
        lines = [f"rule del pref {priority}" for priority in await _ours(version)]
        lines += [f"rule add pref {_TO_PROVIDER} to {each} lookup main" for each in _of(version, around.provider)]
        lines += [f"rule add pref {_TO_CONTROL} to {each} lookup main" for each in _of(version, around.control)]
        lines += [f"rule add pref {_FROM_OWN} from {each} lookup main" for each in _of(version, own)]
        lines += [f"route replace unreachable default metric {_LAST_METRIC} table {TABLE}"]
        lines += [f"rule add pref {_ALL} lookup {TABLE}"]
        await _batch(version, lines)


async def lead_into(interface: str, networks: Iterable[Network]) -> None:
    """Have the tunnel carry what goes to these networks. Raises CommandFailed."""
    wanted = list(networks)
    for version in _versions(interface):
        lines = [f"route replace {each} dev {interface} table {TABLE}" for each in wanted if each.version == version]
        await _batch(version, lines)


async def remove() -> None:
    """Remove rules and routes; nothing there is fine. Raises CommandFailed."""
    for version in _versions():
        lines = [f"rule del pref {priority}" for priority in await _ours(version)]
        routes = json.loads(await run("ip", f"-{version}", "-json", "route", "show", "table", "all") or "[]")
        if any(str(route.get("table")) == str(TABLE) for route in routes):
            lines.append(f"route flush table {TABLE}")
        await _batch(version, lines)


async def remove_interface(name: str) -> None:
    """Remove a tunnel's interface that an agent left; nothing there is fine. Raises NotEquipped if it is none."""
    links = json.loads(await run("ip", "-json", "-details", "link", "show") or "[]")
    for link in links:
        if link.get("ifname") == name:
            if link.get("linkinfo", {}).get("info_kind") not in _KINDS:
                raise NotEquipped(
                    f"the interface {name} is there and is no tunnel", mend="name another with --tunnel-interface"
                )
            await run("ip", "link", "delete", name)


def route_trouble(addresses: Iterable[str]) -> str | None:
    """What is wrong with the routes, if traffic that may go anywhere does not leave from one of the tunnel's addresses.

    Nothing is sent: the kernel chooses a source when a UDP socket is connected. `addresses` are those of one tunnel.
    """
    own = list(addresses)
    for version in sorted({ip_address(each).version for each in own}):
        far, family = _FAR[version]
        try:
            with closing(socket.socket(family, socket.SOCK_DGRAM)) as asking:
                asking.connect((far, 9))
                source = asking.getsockname()[0]
        except OSError:
            return f"there is no IPv{version} route into the tunnel"
        if source not in own:
            return f"the IPv{version} route does not lead into the tunnel"
    return None


def has_ipv6(interface: str | None = None) -> bool:
    """Whether this namespace, or an interface of it, speaks IPv6."""
    try:
        return (_SYSCTL / (interface or "all") / "disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def _versions(interface: str | None = None) -> tuple[int, ...]:
    return (4, 6) if has_ipv6(interface) else (4,)


def _of(version: int, addresses: Iterable[str]) -> list[str]:
    return sorted(each for each in addresses if ip_address(each).version == version)


def _addresses(links: list[dict[str, Any]], interface: str) -> Iterator[str]:
    for link in links:
        if link.get("ifname") not in {"lo", interface}:
            yield from (each["local"] for each in link.get("addr_info", ()) if each.get("scope") == "global")


async def _ours(version: int) -> list[int]:
    rules = json.loads(await run("ip", f"-{version}", "-json", "rule", "show") or "[]")
    return [rule["priority"] for rule in rules if _TO_PROVIDER <= rule["priority"] <= _ALL]


async def _batch(version: int, lines: list[str]) -> None:
    if lines:
        await run("ip", f"-{version}", "-batch", "-", text="\n".join([*lines, ""]))
