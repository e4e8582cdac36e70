"""Two network namespaces, a gateway's with its clients and an exit's with its targets, and links between them (root)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.errors import LabError
from demo.instance import claim_instance, temporary_folder
from demo.plan import namespace_prefix, tunnel_prefix
from demo.processes import ProcessGroup, StopStage, shielded
from demo.underlay import find_tunnel_obstacle, ip_batch, remove_underlay

TARGET: Final = "198.18.0.1"
"""The targets' address, in the exit's namespace; exits do not connect to private ones."""
_GATEWAY, _EXIT, _LENGTH = "198.18.1.1", "198.18.1.2", 24
_WITHIN_S: Final = 10.0
_SYSCTLS: Final = {
    "net/ipv4/ip_local_port_range": "1024 65535",
    "net/ipv4/tcp_tw_reuse": "1",  # otherwise thousands of ended tunnels would use up the ports
}


@dataclass(frozen=True, slots=True)
class HopNetwork:
    """The namespaces by their names, a temporary folder, and the processes of the benchmark."""

    gateway: str
    exit: str
    exit_address: str
    folder: Path
    mark: str
    """The mark of all processes; the next holder of the names ends what a killed benchmark left (demo/processes.py)."""


def program(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of a module of this folder that imports no other one, for any working directory."""
    return (sys.executable, "-P", str(Path(__file__).with_name(f"{module}.py")), *arguments)


@contextmanager
def open_network(round_trip_ms: float = 0) -> Iterator[HopNetwork]:
    """Create the namespaces and a link with this round trip. At the end, or after a kill by the next one, they are removed.

    Raises LabError where namespaces cannot be created.
    """
    if obstacle := find_tunnel_obstacle():
        raise LabError(f"namespaces cannot be created: {obstacle}")
    with claim_instance(remove_underlay) as instance, temporary_folder(instance) as folder:
        prefix = namespace_prefix(instance.index)
        network = HopNetwork(f"{prefix}gateway", f"{prefix}exit", _EXIT, folder, instance.mark)
        processes = ProcessGroup(instance.mark, folder)
        try:
            ip_batch(None, f"netns add {network.gateway}", f"netns add {network.exit}")
            _link(network, tunnel_prefix(instance.index), round_trip_ms, processes)
            for namespace in (network.gateway, network.exit):
                for name, value in _SYSCTLS.items():
                    processes.run(("sh", "-c", f"echo {value} > /proc/sys/{name}"), namespace=namespace)
            yield network
        finally:
            with shielded():
                processes.end_all()
                remove_underlay(instance.index)


def _link(network: HopNetwork, prefix: str, round_trip_ms: float, processes: ProcessGroup) -> None:
    """Connect the namespaces: by a veth pair, or with a delay by two TUN interfaces and a process between them."""
    one, other = f"{prefix}0", f"{prefix}1"
    if round_trip_ms:
        argv = program("delayed_link", f"{round_trip_ms / 2:g}", one, other)
        relay = processes.start("link", StopStage.TUNNEL, argv)
        deadline_s = time.monotonic() + _WITHIN_S
        while not all(Path("/sys/class/net", name).exists() for name in (one, other)):
            relay.check()
            if time.monotonic() > deadline_s:
                raise LabError(f"the link has no interfaces after {_WITHIN_S:g} s")
            time.sleep(0.01)
    else:
        ip_batch(None, f"link add {one} type veth peer name {other}")
    ip_batch(None, f"link set {one} netns {network.gateway}", f"link set {other} netns {network.exit}")
    for namespace, name, address in ((network.gateway, one, _GATEWAY), (network.exit, other, network.exit_address)):
        ip_batch(
            namespace,
            "link set lo up",
            f"address add {address}/{_LENGTH} dev {name}",
            f"link set {name} txqueuelen 10000 up",
        )
    ip_batch(network.exit, f"address add {TARGET}/32 dev lo")
    ip_batch(network.gateway, f"route add {TARGET}/32 via {network.exit_address}")
