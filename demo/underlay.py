"""The network of a demo with tunnels: a namespace for the internet, one for each exit, and the links between them.

    host ── uplink ──┐
    exit 1 ── eth1 ──┤ bridge, in the internet's namespace, where the page and the tunnels' far ends are
    exit 2 ── eth2 ──┘

An exit's namespace reaches only the underlay until its tunnel adds a default route. The host has a direct route to the page,
so that a leak would show the host's own address there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from demo.errors import LabError
from demo.plan import (
    MAX_INSTANCES,
    PAGE_BLOCK,
    PUBLIC_BLOCK,
    UNDERLAY_BLOCKS,
    AddressPlan,
    ExitSite,
    namespace_prefix,
    tunnel_prefix,
    uplink_name,
)
from demo.processes import end_pids

WIREGUARD_SOCKETS: Final = Path("/var/run/wireguard")
_NAMESPACES: Final = Path("/run/netns")
_NAMESPACE_FILES: Final = Path("/etc/netns")
_CAP_NET_ADMIN: Final = 12
_CAP_SYS_ADMIN: Final = 21
# A VPN for all traffic routes 0.0.0.0/1 and 128.0.0.0/1; only more specific routes belong to real networks.
_SHORTEST_PREFIX: Final = 8


def find_tunnel_obstacle() -> str | None:
    """Return the reason why this process cannot create namespaces with tunnels, or None if it can."""
    if os.geteuid() != 0:
        return "not running as root"
    for tool, package in (("ip", "iproute2"), ("wireguard-go", "wireguard-go")):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (apt-get install {package})"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing"
    allowed = int(_status_field("CapEff"), 16)
    if not all(allowed >> capability & 1 for capability in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN)):
        return "this root may not create network namespaces"
    return None


def choose_underlay_block() -> IPv4Network:
    """Choose the first underlay block that this machine does not use. Raises LabError if a needed block is in use."""
    routes = _list_networks()
    for block in (PUBLIC_BLOCK, PAGE_BLOCK):
        if any(block.overlaps(route) for route in routes):
            raise LabError(f"this machine has a route into {block}, which the demo needs", hint="use --plain")
    for block in UNDERLAY_BLOCKS:
        if not any(block.overlaps(route) for route in routes):
            return block
    raise LabError(f"this machine has routes into {' and '.join(map(str, UNDERLAY_BLOCKS))}", hint="use --plain")


def build_underlay(plan: AddressPlan) -> None:
    """Create the namespaces and links of `plan`. After an error, `remove_underlay` removes what was created."""
    if plan.underlay is None or plan.internet is None:
        raise ValueError("a plan without tunnels has no underlay")
    _write_resolver_files(plan)
    bits = plan.underlay.prefixlen
    namespaces = [plan.internet, *(site.namespace for site in plan.sites if site.namespace)]
    ip_batch(
        None,
        *(f"netns add {namespace}" for namespace in namespaces),
        f"link add {plan.uplink} type veth peer name {plan.downlink} netns {plan.internet}",
        f"address add {plan.host_address}/{bits} dev {plan.uplink}",
        f"link set {plan.uplink} up",
    )
    ip_batch(
        plan.internet,
        "link set lo up",
        *(f"address add {address}/32 dev lo" for address in addresses_of_internet(plan)),
        f"link add {plan.bridge} type bridge",
        f"address add {plan.internet_address}/{bits} dev {plan.bridge}",
        f"link set {plan.bridge} up",
        *_attach(plan.downlink, plan.bridge),
        *(line for site in plan.sites for line in _link_exit(site, plan.bridge)),
    )
    for site in plan.sites:
        ip_batch(
            site.namespace,
            "link set lo up",
            f"address add {site.address}/{bits} dev {site.ethernet}",
            f"link set {site.ethernet} up",
        )
    ip_batch(None, f"route add {plan.page_network} via {plan.internet_address} dev {plan.uplink}")


def remove_underlay(index: int) -> None:
    """Remove everything that demo `index` may have created, found by name, and end the processes in its namespaces.

    Processes on the host must have ended before, because without the uplink their traffic would go elsewhere.
    """
    namespaces = [path.name for path in _matching(_NAMESPACES, f"{namespace_prefix(index)}*")]
    with contextlib.ExitStack() as stack:  # callbacks run in reverse order, and all of them even after an error
        # a killed WireGuard leaves its control socket
        for path in _matching(WIREGUARD_SOCKETS, f"{tunnel_prefix(index)}*.sock"):
            stack.callback(path.unlink, missing_ok=True)
        for folder in _matching(_NAMESPACE_FILES, f"{namespace_prefix(index)}*"):
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for namespace in namespaces:
            stack.callback(_ip, "netns", "delete", namespace)
        if Path("/sys/class/net", uplink_name(index)).exists():
            stack.callback(_ip, "link", "delete", uplink_name(index))
        for namespace in namespaces:
            stack.callback(_end_processes_in, namespace)


def _end_processes_in(namespace: str) -> None:
    # `ip` refuses a name that a killed `ip netns add` left without a namespace, which has no processes
    with contextlib.suppress(LabError):
        end_pids(map(int, _ip("netns", "pids", namespace).split()), timeout_s=2)


def ip_batch(namespace: str | None, *lines: str) -> None:
    """Run several `ip` commands at once, in a namespace if one is given. Raises LabError with the error of `ip`."""
    target = ("-netns", namespace) if namespace else ()
    _ip(*target, "-batch", "-", text="\n".join(lines))


def _write_resolver_files(plan: AddressPlan) -> None:
    """Configure the exits' resolvers, which are on the internet, behind the tunnel; so only exits resolve the page's name."""
    for site in plan.sites:
        folder = _NAMESPACE_FILES / str(site.namespace)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text("127.0.0.1 localhost\n")
        resolver_file(site).write_text(f"nameserver {plan.resolver_of(site.country)}\n")


def resolver_file(site: ExitSite) -> Path:
    """Return the file that `ip netns exec` mounts as /etc/resolv.conf in an exit's namespace."""
    return _NAMESPACE_FILES / str(site.namespace) / "resolv.conf"


def addresses_of_internet(plan: AddressPlan) -> Sequence[object]:
    """List the addresses at which the page and the name servers of a demo's internet listen."""
    resolvers = dict.fromkeys(plan.resolver_of(site.country) for site in plan.sites)
    return (plan.page_address, plan.name_server, *resolvers)


def _link_exit(site: ExitSite, bridge: str) -> Iterable[str]:
    yield f"link add {site.port_interface} type veth peer name {site.ethernet} netns {site.namespace}"
    yield from _attach(str(site.port_interface), bridge)


def _attach(interface: str, bridge: str) -> Sequence[str]:
    return (f"link set {interface} master {bridge}", f"link set {interface} up")


def _list_networks() -> list[IPv4Network]:
    """List the networks into which this machine has routes, without default routes and without demos."""
    demos = {uplink_name(index) for index in range(MAX_INSTANCES)}
    networks = []
    for route in json.loads(_ip("-json", "-4", "route", "show", "table", "all") or "[]"):
        with contextlib.suppress(ValueError):  # "default"
            network = IPv4Network(route["dst"])
            if network.prefixlen >= _SHORTEST_PREFIX and route.get("dev") not in demos:
                networks.append(network)
    return networks


def _ip(*arguments: str, text: str = "") -> str:
    done = subprocess.run(
        ("ip", *arguments), input=text, capture_output=True, text=True, timeout=30, start_new_session=True, check=False
    )
    if done.returncode:
        raise LabError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def _status_field(name: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise LabError(f"/proc/self/status has no {name}")
