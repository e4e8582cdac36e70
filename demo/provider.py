"""A VPN provider in a container: WireGuard servers in front of a small internet, and the files of its customers.

Each exit of the plan has an account: a file for its agent (wg-quick), and one for the provider's server.
"""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.vpn.requirements import require
from demo import internet
from demo.errors import LabError
from demo.geo_map import build_geo_map
from demo.plan import AddressPlan, ExitSite
from demo.underlay import addresses_of_internet, ip_batch

_FIRST_PORT: Final = 51820
_READY_WITHIN_S: Final = 10.0
_STOP_WITHIN_S: Final = 5.0
_PROGRAMS: Final = {"ip": "iproute2", "wireguard-go": "wireguard-go", "wg": "wireguard-tools"}


def write_accounts(plan: AddressPlan, servers: Path, customers: Path) -> None:
    """Write `<exit>.conf` for each exit into both folders. Files of the same endpoint stay, so that keys survive a restart."""
    for number, site in enumerate(plan.sites):
        server, customer = (folder / f"{site.name}.conf" for folder in (servers, customers))
        port = _FIRST_PORT + number
        endpoint = f"{plan.internet_address}:{port}"
        if server.exists() and customer.exists() and f"Endpoint = {endpoint}\n" in customer.read_text():
            continue
        keys = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        write_private(server, server_file(site, port, *keys))
        write_private(customer, customer_file(site, endpoint, str(plan.resolver_of(site.country)), *keys))


def server_file(site: ExitSite, port: int, server_key: X25519PrivateKey, customer_key: X25519PrivateKey) -> str:
    """Return the settings of the provider's server for an exit, for `wg setconf`."""
    return (
        f"[Interface]\nPrivateKey = {_private(server_key)}\nListenPort = {port}\n"
        f"[Peer]\nPublicKey = {_public(customer_key)}\nAllowedIPs = {site.egress_address}/32\n"
    )


def customer_file(
    site: ExitSite, endpoint: str, resolver: str, server_key: X25519PrivateKey, customer_key: X25519PrivateKey
) -> str:
    """Return the wg-quick file of an exit, whose tunnel has the address that targets see."""
    return (
        f"[Interface]\nPrivateKey = {_private(customer_key)}\nAddress = {site.egress_address}/32\nDNS = {resolver}\n"
        f"[Peer]\nPublicKey = {_public(server_key)}\nEndpoint = {endpoint}\nAllowedIPs = 0.0.0.0/0\n"
        "PersistentKeepalive = 15\n"
    )


def write_private(path: Path, text: str, owner: int | None = None) -> None:
    """Replace a file at once, readable by its owner alone: this user, or the one with the id `owner`."""
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text)
    if owner is not None:
        os.chown(draft, owner, owner)
    draft.replace(path)


def serve(plan: AddressPlan, servers: Path) -> None:
    """Run the servers and the internet in this network namespace until SIGTERM. Raises NotEquipped, LabError."""
    require(_PROGRAMS)
    if not Path("/dev/net/tun").exists():
        raise LabError("/dev/net/tun is missing", hint="run the container with --device /dev/net/tun")
    ip_batch(None, "link set lo up", *(f"address add {address}/32 dev lo" for address in addresses_of_internet(plan)))
    with _tunnel_servers(plan.sites, servers):
        internet.main(f"{plan.page_address}:{plan.page_port}", build_geo_map(plan).to_json())


@contextmanager
def _tunnel_servers(sites: Sequence[ExitSite], folder: Path) -> Iterator[None]:
    """Run a WireGuard server for each exit during the block. Raises LabError."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for site in sites:
            interface = str(site.tunnel_server)
            processes.append(subprocess.Popen(("wireguard-go", "--foreground", interface), env=_environment()))
        for site, process in zip(sites, processes, strict=True):
            interface = str(site.tunnel_server)
            _configure(interface, folder / f"{site.name}.conf", process)
            ip_batch(None, f"link set {interface} up", f"route add {site.egress_address}/32 dev {interface}")
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    # the second one only omits advice to use the kernel's WireGuard, which containers cannot load
    return {**os.environ, "LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}


def _configure(interface: str, file: Path, process: subprocess.Popen[bytes]) -> None:
    """Configure a server once its interface exists. Raises LabError."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        done = subprocess.run(("wg", "setconf", interface, str(file)), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(
                f"the WireGuard server {interface} does not start ({done.stderr.strip()})",
                hint="run the container with --cap-add NET_ADMIN and --device /dev/net/tun",
            )
        time.sleep(0.05)


def _private(key: X25519PrivateKey) -> str:
    return base64.b64encode(key.private_bytes_raw()).decode()


def _public(key: X25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()
