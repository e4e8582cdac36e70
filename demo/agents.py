"""The agents of a lab, which run the Envoys of the gateway and of the exits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path
from typing import Final

from agent.config.state_dir import ADMIN_SOCKET, ENROLMENT, ENVOY, StateDir
from demo.errors import LabError
from demo.name_servers import ZONE
from demo.plan import ExitSite
from demo.processes import Child, ProcessGroup, StopStage
from demo.wireguard import DemoTunnel

EXITPLANE: Final = (sys.executable, "-P", "-m", "cli")
_ENVOY_WITHIN_S = 20.0
_ADMIN_TIMEOUT_S = 20.0


def query_admin(state_dir: Path, path: str) -> str:
    """Return the reply of the admin interface of the Envoy in a state folder. Raises OSError, and LabError for an error."""
    with (
        contextlib.closing(socket.socket(socket.AF_UNIX)) as admin,
        StateDir(state_dir).short_path(ADMIN_SOCKET) as pipe,
    ):
        admin.settimeout(_ADMIN_TIMEOUT_S)
        admin.connect(pipe)
        admin.sendall(f"GET /{path.lstrip('/')} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n".encode())
        response = HTTPResponse(admin)
        response.begin()
        text = response.read().decode()
    if response.status != HTTPStatus.OK:
        raise LabError(f"Envoy's admin interface answers {response.status} to {path}")
    return text


@dataclass(slots=True)
class AgentProcess:
    """An agent: its command line, and its process while it runs. `namespace` is None on the host.

    `environment` is added to the environment that all processes of the lab have.
    """

    name: str
    state_dir: Path
    arguments: tuple[str, ...]
    processes: ProcessGroup
    namespace: str | None = None
    child: Child | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the agent; it reuses a certificate in `state_dir`."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        argv = (*EXITPLANE, "agent", *self.arguments, "--name", self.name, "--state", str(self.state_dir))
        self.child = self.processes.start(
            self.name, StopStage.AGENT, argv, namespace=self.namespace, environment=self.environment
        )

    def remove_enrolment(self) -> None:
        """Make the agent enrol again at its start, because a kept folder has the addresses of an earlier lab."""
        (self.state_dir / ENROLMENT).unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop the agent in order, with its Envoy."""
        if self.child is not None:
            self.processes.end([self.child])
            self.child = None

    @property
    def envoy_pid(self) -> int:
        """The process id of its Envoy. Raises LabError if there is none within _ENVOY_WITHIN_S."""
        return int(self._read_envoy("pid"))

    def kill_envoy(self) -> None:
        """Send SIGKILL to its Envoy."""
        os.kill(self.envoy_pid, signal.SIGKILL)

    def query_admin(self, path: str) -> str:
        """Return the reply of Envoy's admin interface on `path`."""
        self._read_envoy("pid")  # wait for it
        return query_admin(self.state_dir, path)

    def _read_envoy(self, field: str) -> str:
        """Read a field of the file in which the agent describes its Envoy. Raises LabError."""
        path = self.state_dir / ENVOY
        deadline = time.monotonic() + _ENVOY_WITHIN_S
        while time.monotonic() < deadline:
            if self.child is not None:
                self.child.check()
            with contextlib.suppress(OSError, ValueError, KeyError):
                described = json.loads(path.read_text())
                # A file from before a kill names a process that is gone, or a process id that was reused.
                if self.processes.owns(int(described["pid"])):
                    return str(described[field])
            time.sleep(0.05)
        raise LabError(f"{self.name} has no Envoy after {_ENVOY_WITHIN_S:g} s")


@dataclass(slots=True, kw_only=True)
class ExitAgent(AgentProcess):
    """The agent of an exit, with its addresses and its tunnel; `tunnel` is None for a plain process."""

    site: ExitSite
    tunnel: DemoTunnel | None = None

    @property
    def country(self) -> str:
        """The country of the exit, which is also the name of its pool."""
        return self.site.country

    @property
    def egress_address(self) -> str:
        """The source address that targets see."""
        return str(self.site.egress_address)

    @property
    def tunnel_pid(self) -> int | None:
        """The id of the process that runs its end of the tunnel; None without one."""
        client = self.tunnel.client if self.tunnel else None
        return client.pid if client else None

    def kill_tunnel(self) -> None:
        """Send SIGKILL to its end of the tunnel: interface, public address and default route disappear with it."""
        tunnel = self._require_tunnel()
        if tunnel.client is not None:
            self.processes.kill(tunnel.client)
            tunnel.client = None

    def restore_tunnel(self) -> None:
        """Start its end of the tunnel again, with the same keys and address, if it does not run."""
        tunnel = self._require_tunnel()
        if tunnel.client is None:
            tunnel.start_client()
            tunnel.configure_client()

    def _require_tunnel(self) -> DemoTunnel:
        if self.tunnel is None:
            raise LabError(f"{self.name} is a plain process on {self.egress_address}, without a tunnel")
        return self.tunnel


def exit_arguments(
    site: ExitSite, *, api_url: str, token_file: Path, probe: str, host_address: str, extra: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Build the arguments of the agent of the exit at `site`, with its tunnel or its egress address.

    The internet at `probe` serves geolocation and speed tests. The resolver is checked only with a tunnel, because a plain
    process uses the resolvers of this host.
    """
    # no kill switch, because the demo and its tests show how traffic outside a tunnel is detected
    outward = (
        ("--tunnel-interface", site.tunnel, "--no-kill-switch")
        if site.tunnel
        else ("--egress-address", str(site.egress_address))
    )
    return (
        *("--role", "exit", "--api", api_url, "--token-file", str(token_file), "--pool", site.country),
        *("--address", str(site.address), "--port", str(site.port), "--bind-address", str(site.address)),
        *outward,
        *("--probe", probe, "--host-address", host_address),
        *("--observe", f"http://{probe}/ipinfo", "--observe", f"http://{probe}/ip-api"),
        *("--speed-url", f"http://{probe}/bytes?n=25000000"),
        *(("--dns-zone", ZONE) if site.tunnel else ()),
        *extra,
    )


def gateway_arguments(
    *, api_url: str, token_file: Path, drain_time_s: float | None, extra: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Build the arguments of the gateway's agent; `drain_time_s` None keeps Envoy's default."""
    drain = () if drain_time_s is None else ("--drain-time-s", f"{drain_time_s:g}")
    return ("--role", "gateway", "--api", api_url, "--token-file", str(token_file), *drain, *extra)
