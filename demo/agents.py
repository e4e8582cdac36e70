"""The agents of a scene: each runs an Envoy, beside the gateway or beside an exit's tunnel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.config.state_dir import ENROLMENT, ENVOY
from demo.errors import LabError
from demo.name_servers import ZONE
from demo.plan import ExitSite
from demo.processes import Child, ProcessGroup, StopStage
from demo.wireguard import DemoTunnel

EXITPLANE: Final = (sys.executable, "-P", "-m", "cli")
_ENVOY_WITHIN_S = 20.0
_ASK_ADMIN = (
    "import sys, urllib.request as r; print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1]).read().decode())"
)


@dataclass(slots=True)
class AgentProcess:
    """An agent: how it is started, and its process while it runs. `namespace` is None on the host.

    `environment` is what it is started with beyond what every process of the scene has.
    """

    name: str
    state_dir: Path
    arguments: tuple[str, ...]
    processes: ProcessGroup
    namespace: str | None = None
    child: Child | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start it; an agent that was here before finds its certificate in `state_dir`."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        argv = (*EXITPLANE, "agent", *self.arguments, "--name", self.name, "--state", str(self.state_dir))
        self.child = self.processes.start(
            self.name, StopStage.AGENT, argv, namespace=self.namespace, environment=self.environment
        )

    def forget(self) -> None:
        """Have it enrol anew when it starts: in a folder kept from an earlier scene, the addresses are those of then."""
        (self.state_dir / ENROLMENT).unlink(missing_ok=True)

    def stop(self) -> None:
        """End it in order, its Envoy with it."""
        if self.child is not None:
            self.processes.end([self.child])
            self.child = None

    @property
    def envoy_pid(self) -> int:
        """The id of its Envoy. Raises SceneError if there is none within a time."""
        return int(self._envoy("pid"))

    def kill_envoy(self) -> None:
        """SIGKILL its Envoy."""
        os.kill(self.envoy_pid, signal.SIGKILL)

    def admin(self, path: str) -> str:
        """What its Envoy's admin interface answers on `path`, asked from inside its namespace."""
        url = f"http://{self._envoy('admin')}/{path.lstrip('/')}"
        return self.processes.run((sys.executable, "-c", _ASK_ADMIN, url), namespace=self.namespace)

    def _envoy(self, field: str) -> str:
        """`field` of the file in which the agent tells about its Envoy."""
        path = self.state_dir / ENVOY
        deadline = time.monotonic() + _ENVOY_WITHIN_S
        while time.monotonic() < deadline:
            if self.child is not None:
                self.child.check()
            with contextlib.suppress(OSError, ValueError, KeyError):
                told = json.loads(path.read_text())
                # A file from before a kill names a process that is gone, or by now somebody else's.
                if self.processes.owns(int(told["pid"])):
                    return str(told[field])
            time.sleep(0.05)
        raise LabError(f"{self.name} has no Envoy after {_ENVOY_WITHIN_S:g} s")


@dataclass(slots=True, kw_only=True)
class ExitAgent(AgentProcess):
    """An exit: its agent, where it stands, and its tunnel, which a plain process does not have."""

    site: ExitSite
    tunnel: DemoTunnel | None = None

    @property
    def country(self) -> str:
        """The country it stands for; its pool has the same name."""
        return self.site.country

    @property
    def egress_address(self) -> str:
        """What targets see."""
        return str(self.site.egress_address)

    @property
    def tunnel_pid(self) -> int | None:
        """The id of the process that is its tunnel, while it has one."""
        client = self.tunnel.client if self.tunnel else None
        return client.pid if client else None

    def kill_tunnel(self) -> None:
        """SIGKILL its end of the tunnel: interface, public address and default route vanish with it."""
        tunnel = self._own_tunnel()
        if tunnel.client is not None:
            self.processes.kill(tunnel.client)
            tunnel.client = None

    def restore_tunnel(self) -> None:
        """Bring the tunnel back with the same keys and address, if it is gone."""
        tunnel = self._own_tunnel()
        if tunnel.client is None:
            tunnel.start_client()
            tunnel.configure_client()

    def _own_tunnel(self) -> DemoTunnel:
        if self.tunnel is None:
            raise LabError(f"{self.name} is a plain process on {self.egress_address}: it has no tunnel")
        return self.tunnel


def exit_arguments(
    site: ExitSite, *, api_url: str, token_file: Path, probe: str, host_address: str, extra: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """How the agent of the exit at `site` is started: with its tunnel, or with the address it has instead of one.

    The internet at `probe` says where it comes out, and is what speed is measured against. Who resolves its names is asked
    where it has resolvers of its own: without a tunnel they are this host's.
    """
    outward = ("--tunnel-interface", site.tunnel) if site.tunnel else ("--egress-address", str(site.egress_address))
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
    """How the gateway's agent is started; `drain_time_s` None leaves Envoy's own drain time."""
    drain = () if drain_time_s is None else ("--drain-time-s", f"{drain_time_s:g}")
    return ("--role", "gateway", "--api", api_url, "--token-file", str(token_file), *drain, *extra)
