"""WireGuard tunnels in userspace, from an exit's namespace to the internet's. Keys are kept in memory only."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from demo.errors import LabError
from demo.plan import AddressPlan, ExitSite
from demo.processes import Child, ProcessGroup, StopStage
from demo.underlay import WIREGUARD_SOCKETS, ip_batch

_FIRST_PORT = 51820
_READY_WITHIN_S = 10.0


@dataclass(slots=True)
class DemoTunnel:
    """The tunnel of one exit: the client in the exit's namespace, the server on the internet."""

    plan: AddressPlan
    site: ExitSite
    processes: ProcessGroup
    client: Child | None = None
    server: Child | None = None
    _client_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    _server_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    @property
    def port(self) -> int:
        """The server's UDP port."""
        return _FIRST_PORT + self.plan.sites.index(self.site)

    def start_server(self) -> None:
        """Start the server's process; `configure_server` configures it."""
        self.server = self._start(str(self.site.tunnel_server), self.plan.internet)

    def start_client(self) -> None:
        """Start the client's process; `configure_client` configures it."""
        self.client = self._start(str(self.site.tunnel), self.site.namespace)

    def configure_server(self) -> None:
        """Configure the server to accept the exit, with its egress address as the only source."""
        assert self.server is not None
        interface = str(self.site.tunnel_server)
        _configure(
            self.server,
            interface,
            f"private_key={_private(self._server_key)}",
            f"listen_port={self.port}",
            f"public_key={_public(self._client_key)}",
            f"allowed_ip={self.site.egress_address}/32",
        )
        ip_batch(
            self.plan.internet,
            f"link set {interface} up",
            f"route add {self.site.egress_address}/32 dev {interface}",
        )

    def configure_client(self) -> None:
        """Configure the client, and add the egress address and the default route to the namespace."""
        assert self.client is not None
        interface = str(self.site.tunnel)
        _configure(
            self.client,
            interface,
            f"private_key={_private(self._client_key)}",
            f"public_key={_public(self._server_key)}",
            f"endpoint={self.plan.internet_address}:{self.port}",
            "allowed_ip=0.0.0.0/0",
        )
        ip_batch(
            self.site.namespace,
            f"address add {self.site.egress_address}/32 dev {interface}",
            f"link set {interface} up",
            f"route add default dev {interface}",
        )

    def _start(self, interface: str, namespace: str | None) -> Child:
        argv = ("wireguard-go", "--foreground", interface)
        return self.processes.start(interface, StopStage.TUNNEL, argv, namespace=namespace)


def open_tunnels(tunnels: Sequence[DemoTunnel]) -> None:
    """Start both ends of all tunnels at once, and configure each when it is ready."""
    for tunnel in tunnels:
        tunnel.start_server()
        tunnel.start_client()
    for tunnel in tunnels:
        tunnel.configure_server()
        tunnel.configure_client()


def _configure(child: Child, interface: str, *settings: str) -> None:
    """Set a WireGuard interface through its control socket (the cross-platform userspace protocol of WireGuard)."""
    with _connect(child, interface) as control, control.makefile("rw") as stream:
        stream.write("\n".join(("set=1", *settings, "", "")))
        stream.flush()
        reply = stream.readline().strip()
    if reply != "errno=0":
        raise LabError(f"WireGuard refused the settings of {interface}: {reply}")


def _connect(child: Child, interface: str) -> socket.socket:
    """Connect to the control socket, which exists as soon as the interface does. Raises LabError."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        control = socket.socket(socket.AF_UNIX)
        control.settimeout(_READY_WITHIN_S)
        try:
            control.connect(str(WIREGUARD_SOCKETS / f"{interface}.sock"))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            control.close()
            child.check()
            if time.monotonic() > deadline:
                raise LabError(f"no control socket of {interface} after {_READY_WITHIN_S:g} s") from error
            time.sleep(0.02)
        else:
            return control


def _private(key: X25519PrivateKey) -> str:
    return key.private_bytes_raw().hex()


def _public(key: X25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()
