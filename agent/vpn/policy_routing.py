"""Policy routing of a namespace whose traffic leaves through a tunnel (ip-rule(8)).

    5248  from OLD TUNNEL        5255/6   connections of the previous tunnel, if its inner address differs
    5249  by FIRST SLOT          5255     sockets bound to a tunnel's interface, and connections pinned to it
    5250  by SECOND SLOT         5256     while another tunnel carries clients (agent.vpn.connection_pinning)
    5251  to PROVIDER            main     the tunnel's own packets
    5252  to CONTROL PLANE       main     heartbeats, configuration, traces
    5253  from OWN ADDRESS       main     answers to gateways, through the interface of their requests
    5254  everything             5253     the tunnel that carries clients, and `unreachable` if there is none

The rules make packets arrive. The kill switch stops packets that take a wrong route.
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
_SYSCTL: Final = Path("/proc/sys/net/ipv6/conf")
_SYSCTL_4: Final = Path("/proc/sys/net/ipv4/conf")
_STRICT, _LOOSE = "1", "2"
_FAR: Final = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Documentation addresses (RFC 5737, RFC 3849): their route is the default route."""


@dataclass(frozen=True, slots=True)
class BypassAddresses:
    """IP addresses that are reached outside the tunnel."""

    provider: frozenset[str] = frozenset()
    control: frozenset[str] = frozenset()


async def apply_rules(bypass: BypassAddresses, slots: Sequence[InterfaceSlot], *, replace_all: bool = True) -> None:
    """Set the rules, whether the slots' interfaces exist or not. Raises CommandFailed.

    Unless `replace_all`, constant rules are kept, so that packets through a tunnel always find their route.
    """
    own = _addresses(json.loads(await run("ip", "-json", "address", "show")), {slot.interface for slot in slots})
    for version in _versions():
        present = await _own_priorities(version)
        kept = set() if replace_all else {each for each in present if each < _TO_PROVIDER or each == _ALL}
        lines = [f"rule del pref {priority}" for priority in present if priority not in kept]
        lines += [f"rule add pref {_TO_PROVIDER} to {each} lookup main" for each in _of(version, bypass.provider)]
        lines += [f"rule add pref {_TO_CONTROL} to {each} lookup main" for each in _of(version, bypass.control)]
        lines += [f"rule add pref {_FROM_OWN} from {each} lookup main" for each in _of(version, own)]
        if not kept:
            lines += _constant_lines(slots)
        await _batch(version, lines)


def _constant_lines(slots: Sequence[InterfaceSlot]) -> Iterator[str]:
    for priority, slot in enumerate(slots, _FIRST_SLOT):
        yield f"rule add pref {priority} oif {slot.interface} lookup {slot.table}"
        yield f"rule add pref {priority} fwmark {slot.mark:#x} lookup {slot.table}"
    yield f"route replace unreachable default metric {_LAST_METRIC} table {TABLE}"
    yield f"rule add pref {_ALL} lookup {TABLE}"


async def add_slot_routes(slot: InterfaceSlot, networks: Iterable[Network]) -> None:
    """Route packets that are bound to a slot's interface, for these networks. Raises CommandFailed."""
    _relax_reverse_path_filter(slot.interface)
    await _add_routes(slot.interface, slot.table, networks)


async def pin_addresses(slot: InterfaceSlot, addresses: Iterable[str]) -> None:
    """Route packets from a tunnel's addresses through it, until `unpin_addresses`. Raises CommandFailed.

    A new connection gets its address before its route: without this, the two could be of different tunnels.
    """
    wanted = list(addresses)
    for version in _versions(slot.interface):
        lines = [f"rule add pref {_FROM_OLD} from {each} lookup {slot.table}" for each in _of(version, wanted)]
        await _batch(version, lines)


async def unpin_addresses() -> None:
    """Remove the rules of `pin_addresses`, if there are any. Raises CommandFailed."""
    for version in _versions():
        await _batch(version, [f"rule del pref {each}" for each in await _own_priorities(version) if each == _FROM_OLD])


async def route_all_through(interface: str, networks: Iterable[Network]) -> None:
    """Route all clients' packets for these networks through one tunnel, and none through another. Raises CommandFailed.

    A route that both tunnels have is replaced in one step, so that no packet is without a route.
    """
    await _add_routes(interface, TABLE, networks)
    for version in _versions():
        routes = await _routes(version, TABLE)
        others = [each for each in routes if each.get("dev") not in {interface, "lo", None}]
        lines = [f"route del {each['dst']} dev {each['dev']} table {TABLE}" for each in others]
        await _batch(version, lines)


async def _add_routes(interface: str, table: int, networks: Iterable[Network]) -> None:
    wanted = list(networks)
    for version in _versions(interface):
        lines = [f"route replace {each} dev {interface} table {table}" for each in wanted if each.version == version]
        await _batch(version, lines)


async def remove_all(slots: Sequence[InterfaceSlot]) -> None:
    """Remove all rules and routes, if there are any. Raises CommandFailed."""
    for version in _versions():
        lines = [f"rule del pref {priority}" for priority in await _own_priorities(version)]
        tables = (TABLE, *(slot.table for slot in slots))
        lines += [f"route flush table {table}" for table in tables if await _routes(version, table)]
        await _batch(version, lines)


async def _routes(version: int, table: int) -> list[dict[str, Any]]:
    routes = json.loads(await run("ip", f"-{version}", "-json", "route", "show", "table", "all") or "[]")
    return [route for route in routes if str(route.get("table")) == str(table)]


async def remove_interface(name: str, link_kinds: Collection[str]) -> None:
    """Remove a tunnel's interface if it exists. Raises NotEquipped if it is of another kind (ip-link(8)) than these."""
    links = json.loads(await run("ip", "-json", "-details", "link", "show") or "[]")
    for link in links:
        if link.get("ifname") == name:
            if link.get("linkinfo", {}).get("info_kind") not in link_kinds:
                raise NotEquipped(
                    f"the interface {name} exists and is no tunnel", hint="name another with --tunnel-interface"
                )
            await run("ip", "link", "delete", name)


def check_routes(interface: str, versions: Iterable[int]) -> str | None:
    """Return why the default routes of these IP versions do not lead into the tunnel, or None. No packet is sent."""
    for version in sorted(versions):
        found = interface_towards(_FAR[version])
        if found is None:
            return f"there is no IPv{version} route into the tunnel"
        if found != interface:
            return f"the IPv{version} route does not lead into the tunnel"
    return None


def _relax_reverse_path_filter(interface: str) -> None:
    """Accept answers through a tunnel while the default route is another's: a strict rp_filter (ip-sysctl) drops them.

    In a container that may not change it, verification fails for a tunnel with the same inner address as the current one.
    """
    try:
        mode = max((_SYSCTL_4 / each / "rp_filter").read_text().strip() for each in ("all", interface))
        if mode == _STRICT:
            (_SYSCTL_4 / interface / "rp_filter").write_text(_LOOSE)
    except OSError as error:
        log.warning("tunnel.rp_filter_strict", interface=interface, reason=error.strerror)


def has_ipv6(interface: str | None = None) -> bool:
    """Return True if IPv6 is enabled in this namespace, or on one interface of it."""
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


async def _own_priorities(version: int) -> list[int]:
    rules = json.loads(await run("ip", f"-{version}", "-json", "rule", "show") or "[]")
    return [rule["priority"] for rule in rules if _FROM_OLD <= rule["priority"] <= _ALL]


async def _batch(version: int, lines: list[str]) -> None:
    if lines:
        await run("ip", f"-{version}", "-batch", "-", text="\n".join([*lines, ""]))
