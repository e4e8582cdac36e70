"""Routes of a namespace whose one way out is a tunnel (ip-rule(8)).

    5248  from OLD TUNNEL        5255/6   what began by the tunnel that was left a moment ago, if its address is another
    5249  by FIRST SLOT          5255     what is bound to a tunnel's interface, or began on it and stays there
    5250  by SECOND SLOT         5256     while another carries clients (agent.vpn.connection_pinning)
    5251  to PROVIDER            main     the tunnel's own packets
    5252  to CONTROL PLANE       main     heartbeats, configuration, traces
    5253  from OWN ADDRESS       main     answers to gateways leave where their questions came in
    5254  everything             5253     the tunnel that carries clients, and `unreachable` when there is none

Whatever comes to have a wrong route is stopped by the kill switch: these are for packets to arrive, that is for them not to leave.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog

from agent.net.commands import run
from agent.net.route_query import interface_towards
from agent.vpn.errors import NotEquipped
from agent.vpn.slots import InterfaceSlot

log = structlog.get_logger()

Network: TypeAlias = IPv4Network | IPv6Network

TABLE: Final = 5253
EVERYTHING: Final = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_FROM_OLD, _FIRST_SLOT, _TO_PROVIDER, _TO_CONTROL, _FROM_OWN, _ALL = 5248, 5249, 5251, 5252, 5253, 5254
_LAST_METRIC: Final = 4_278_198_272
_KINDS: Final = frozenset({"wireguard", "tun", "ovpn", "ovpn-dco"})
_SYSCTL: Final = Path("/proc/sys/net/ipv6/conf")
_SYSCTL_4: Final = Path("/proc/sys/net/ipv4/conf")
_STRICT, _LOOSE = "1", "2"
_FAR: Final = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Addresses that nobody has (RFC 5737, RFC 3849): a route to them is a route to everything."""


@dataclass(frozen=True, slots=True)
class BypassAddresses:
    """IP addresses that are spoken to outside the tunnel."""

    provider: frozenset[str] = frozenset()
    control: frozenset[str] = frozenset()


async def lay(around: BypassAddresses, slots: Sequence[InterfaceSlot], *, anew: bool = True) -> None:
    """Set the rules; the slots' interfaces are there or not. Raises CommandFailed.

    Unless `anew`, those that never change are left, so that what goes through a tunnel finds its way all the while.
    """
    own = _addresses(json.loads(await run("ip", "-json", "address", "show")), {slot.interface for slot in slots})
    for version in _versions():
        there = await _ours(version)
        steady = set() if anew else {each for each in there if each < _TO_PROVIDER or each == _ALL}
        lines = [f"rule del pref {priority}" for priority in there if priority not in steady]
        lines += [f"rule add pref {_TO_PROVIDER} to {each} lookup main" for each in _of(version, around.provider)]
        lines += [f"rule add pref {_TO_CONTROL} to {each} lookup main" for each in _of(version, around.control)]
        lines += [f"rule add pref {_FROM_OWN} from {each} lookup main" for each in _of(version, own)]
        if not steady:
            lines += _steady(slots)
        await _batch(version, lines)


def _steady(slots: Sequence[InterfaceSlot]) -> Iterator[str]:
    for priority, slot in enumerate(slots, _FIRST_SLOT):
        yield f"rule add pref {priority} oif {slot.interface} lookup {slot.table}"
        yield f"rule add pref {priority} fwmark {slot.mark:#x} lookup {slot.table}"
    yield f"route replace unreachable default metric {_LAST_METRIC} table {TABLE}"
    yield f"rule add pref {_ALL} lookup {TABLE}"


async def pave(slot: InterfaceSlot, networks: Iterable[Network]) -> None:
    """Have a slot carry what goes to these networks of what is bound to its interface. Raises CommandFailed."""
    _loosen(slot.interface)
    await _lead(slot.interface, slot.table, networks)


async def hold(slot: InterfaceSlot, addresses: Iterable[str]) -> None:
    """Have what comes from these addresses of a tunnel go by it, until it is let go. Raises CommandFailed.

    A connection that is being made has an address before it has a route: the two would be of different tunnels.
    """
    wanted = list(addresses)
    for version in _versions(slot.interface):
        lines = [f"rule add pref {_FROM_OLD} from {each} lookup {slot.table}" for each in _of(version, wanted)]
        await _batch(version, lines)


async def let_go() -> None:
    """Remove what `hold` made; nothing there is fine. Raises CommandFailed."""
    for version in _versions():
        await _batch(version, [f"rule del pref {each}" for each in await _ours(version) if each == _FROM_OLD])


async def lead_into(interface: str, networks: Iterable[Network]) -> None:
    """Have this tunnel carry what goes to these networks, and no other tunnel anything. Raises CommandFailed.

    A route that both have changes hands in one step: nothing is without a way in between.
    """
    await _lead(interface, TABLE, networks)
    for version in _versions():
        routes = await _routes(version, TABLE)
        others = [each for each in routes if each.get("dev") not in {interface, "lo", None}]
        lines = [f"route del {each['dst']} dev {each['dev']} table {TABLE}" for each in others]
        await _batch(version, lines)


async def _lead(interface: str, table: int, networks: Iterable[Network]) -> None:
    wanted = list(networks)
    for version in _versions(interface):
        lines = [f"route replace {each} dev {interface} table {table}" for each in wanted if each.version == version]
        await _batch(version, lines)


async def remove(slots: Sequence[InterfaceSlot]) -> None:
    """Remove rules and routes; nothing there is fine. Raises CommandFailed."""
    for version in _versions():
        lines = [f"rule del pref {priority}" for priority in await _ours(version)]
        tables = (TABLE, *(slot.table for slot in slots))
        lines += [f"route flush table {table}" for table in tables if await _routes(version, table)]
        await _batch(version, lines)


async def _routes(version: int, table: int) -> list[dict[str, Any]]:
    routes = json.loads(await run("ip", f"-{version}", "-json", "route", "show", "table", "all") or "[]")
    return [route for route in routes if str(route.get("table")) == str(table)]


async def remove_interface(name: str) -> None:
    """Remove a tunnel's interface that an agent left; nothing there is fine. Raises NotEquipped if it is none."""
    links = json.loads(await run("ip", "-json", "-details", "link", "show") or "[]")
    for link in links:
        if link.get("ifname") == name:
            if link.get("linkinfo", {}).get("info_kind") not in _KINDS:
                raise NotEquipped(
                    f"the interface {name} is there and is no tunnel", hint="name another with --tunnel-interface"
                )
            await run("ip", "link", "delete", name)


def check_routes(interface: str, versions: Iterable[int]) -> str | None:
    """What is wrong with the routes, if traffic of these IP versions that may go anywhere does not leave by the tunnel.

    Nothing is sent: the kernel is asked.
    """
    for version in sorted(versions):
        way = interface_towards(_FAR[version])
        if way is None:
            return f"there is no IPv{version} route into the tunnel"
        if way != interface:
            return f"the IPv{version} route does not lead into the tunnel"
    return None


def _loosen(interface: str) -> None:
    """Take what answers through a tunnel though traffic goes by another: a strict filter (ip-sysctl, rp_filter) drops it.

    Where a container may not change that, a tunnel with the address of the one that carries clients is found to be mute.
    """
    try:
        set_ = max((_SYSCTL_4 / each / "rp_filter").read_text().strip() for each in ("all", interface))
        if set_ == _STRICT:
            (_SYSCTL_4 / interface / "rp_filter").write_text(_LOOSE)
    except OSError as error:
        log.warning("tunnel.strict_filter", interface=interface, reason=error.strerror)


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


def _addresses(links: list[dict[str, Any]], tunnels: Collection[str]) -> Iterator[str]:
    for link in links:
        if link.get("ifname") != "lo" and link.get("ifname") not in tunnels:
            yield from (each["local"] for each in link.get("addr_info", ()) if each.get("scope") == "global")


async def _ours(version: int) -> list[int]:
    rules = json.loads(await run("ip", f"-{version}", "-json", "rule", "show") or "[]")
    return [rule["priority"] for rule in rules if _FROM_OLD <= rule["priority"] <= _ALL]


async def _batch(version: int, lines: list[str]) -> None:
    if lines:
        await run("ip", f"-{version}", "-batch", "-", text="\n".join([*lines, ""]))
