"""A scene: a control plane, a gateway, exits and an internet on this machine. `demo.setup.open_scene` makes one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from demo import http_client
from demo.agents import EXITPLANE, AgentProcess, ExitAgent, exit_arguments, gateway_arguments
from demo.errors import LabError
from demo.geo_map import atlas_of
from demo.http_client import HttpAnswer
from demo.plan import PAGE_NAME, AddressPlan
from demo.processes import Child, ProcessGroup, StopStage
from demo.wireguard import DemoTunnel

FLEET: Final = "demo"
GATEWAY: Final = "gw-1"
OPERATOR: Final = "demo"
HOST: Final = "127.0.0.1"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LabSettings:
    """What a scene is to be. Port 0 takes a free one; `tunnels` None means: if this process can make them.

    `environment` goes to the control plane and overrides what the scene sets there. The `…_arguments` go to the agents.
    `state_dir` is kept at the end; without one a temporary folder is used and removed.
    """

    exits: tuple[str, ...] = ("us", "us", "gb", "jp")
    tunnels: bool | None = None
    state_dir: Path | None = None
    gateway_port: int = 8080
    api_port: int = 8000
    xds_port: int = 18000
    heartbeat_interval_s: float = 2
    silence_timeout_s: float = 6
    gateway_drain_time_s: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    gateway_arguments: tuple[str, ...] = ()
    exit_arguments: tuple[str, ...] = ()
    resilience: Mapping[str, object] = field(default_factory=dict)
    """Of the pools; what is not said is as by default."""
    patience_s: float = 60
    """How long each thing that the scene waits for may take."""


class Lab:
    """What stands on this machine. Made by `open_scene`; every method acts at once and says with SceneError if it failed.

    exits       the exits, in the order asked for; `.namespace`, `.egress_address`, `.state_dir`, `.envoy_pid`, …
    gateway     the gateway's agent
    host_source what the page sees of this host when it is reached past all exits: the mark of a leak
    api_key_file holds an API key of the scene's admin, for `exitplane status` and other callers of the API
    """

    def __init__(
        self,
        settings: LabSettings,
        plan: AddressPlan,
        reason: str,
        ports: Mapping[str, int],
        state_dir: Path,
        processes: ProcessGroup,
        tell: Tell,
    ) -> None:
        self.settings = settings
        self.plan = plan
        self.reason = reason
        self.state_dir = state_dir
        self.processes = processes
        self.host_source = str(plan.host_address)
        self.api_url = f"http://{HOST}:{ports['--api-port']}"
        self.gateway_address = f"{HOST}:{ports['--gateway-port']}"
        self.gateway_url = f"http://{self.gateway_address}"
        self.page_address = f"{plan.page_address}:{plan.page_port}"
        self.page_url = f"http://{plan.page_address}" + (f":{plan.page_port}" if plan.page_port != 80 else "")
        self.api_key_file = state_dir / "operator.key"
        self.page_name_url = f"http://{PAGE_NAME}" if plan.tunnels else None
        self.control_plane: Child | None = None
        self.page: Child | None = None
        self._ports = ports
        self._tell = tell
        self.gateway = self._make_gateway()
        self.exits = [self._make_exit(number) for number in range(len(plan.sites))]

    @property
    def mode(self) -> str:
        """`tunnels` or `plain`."""
        return "tunnels" if self.plan.tunnels else "plain"

    @property
    def countries(self) -> list[str]:
        """The countries that have an exit, each once, in the order asked for."""
        return list(dict.fromkeys(self.settings.exits))

    def egress_addresses(self, country: str) -> set[str]:
        """What targets may see of traffic that asked for `country`."""
        return {exit_.egress_address for exit_ in self.exits if exit_.country == country}

    # -- all at once

    def start(self) -> None:
        """Start everything and wait until traffic leaves through every country."""
        self.start_page(wait=False)
        self.start_control_plane()
        self.wait_for("the page to answer", self._page_trouble, [self.page])
        self.declare()
        self.start_agents()
        self.wait_until_healthy()
        self.wait_until_serving()

    def start_agents(self) -> None:
        """Start the gateway and every exit; `wait_until_healthy` waits for them."""
        self._tell(f"agents: {GATEWAY} and {', '.join(exit_.name for exit_ in self.exits)}, each with an Envoy")
        with ThreadPoolExecutor() as threads:
            list(threads.map(self.write_token, ("gateway", "exit")))
        for agent in (self.gateway, *self.exits):
            agent.start()

    # -- the page

    def start_page(self, *, wait: bool = True) -> None:
        """Start the small internet's page."""
        self._tell(f"internet: a page at {self.page_url}/")
        argv = (sys.executable, "-P", "-m", "demo.internet", self.page_address, atlas_of(self.plan).to_json())
        self.page = self.processes.start("page", StopStage.PAGE, argv, namespace=self.plan.internet)
        if wait:
            self.wait_for("the page to answer", self._page_trouble, [self.page])

    def tell_geolocation(self, path: str, mood: str = "") -> None:
        """Have one format of the geolocation service lie: see `demo.geolocation`. Without a mood it tells the truth."""
        http_client.fetch(f"{self.page_url}{path}", method="PUT", body=mood.encode())

    def seen(self) -> dict[str, int]:
        """How many requests the page had from each source so far."""
        counts: dict[str, int] = http_client.fetch(f"{self.page_url}/seen").json()
        return counts

    # -- the control plane

    @property
    def control_plane_environment(self) -> dict[str, str]:
        """The settings of the control plane, which its commands (`exitplane token`, …) need too."""
        hosts = dict.fromkeys((HOST, self.host_source))
        return {
            "EXITPLANE_STATE_DIR": str(self.state_dir / "control-plane"),
            "EXITPLANE_API_LISTEN": ",".join(f"{host}:{self._ports['--api-port']}" for host in hosts),
            "EXITPLANE_XDS_LISTEN": ",".join(f"{host}:{self._ports['--xds-port']}" for host in hosts),
            "EXITPLANE_HEARTBEAT_INTERVAL_S": f"{self.settings.heartbeat_interval_s:g}",
            "EXITPLANE_SILENCE_TIMEOUT_S": f"{self.settings.silence_timeout_s:g}",
            **self.settings.environment,
        }

    def start_control_plane(self, *, wait: bool = True) -> None:
        """Start `exitplane serve` on the state that is there, and wait until it is ready."""
        self._tell(f"control plane: API at {self.api_url}, database in {self.state_dir}")
        self.control_plane = self.processes.start(
            "control-plane",
            StopStage.CONTROL_PLANE,
            (*EXITPLANE, "serve"),
            environment=self.control_plane_environment,
        )
        if wait:
            self.wait_for("the control plane to be ready", self._control_plane_trouble, [self.control_plane])

    def stop_control_plane(self) -> None:
        """End it in order."""
        if self.control_plane is not None:
            self.processes.end([self.control_plane], patience_s=20)
            self.control_plane = None

    def kill_control_plane(self) -> None:
        """SIGKILL it. Its database server, if embedded, is another process and lives on."""
        if self.control_plane is not None:
            self.processes.kill(self.control_plane)
            self.control_plane = None

    def api(self, method: str, path: str, body: object = None) -> Any:
        """The JSON reply of `/api/v1<path>`, None for an empty one.

        Raises SceneError for a refusal, with its detail, and when the control plane has ended or does not answer.
        """
        url = f"{self.api_url}/api/v1{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            answer = http_client.fetch(
                url, method=method, headers=headers | self.operator_headers, body=data, timeout_s=30
            )
        except OSError as error:
            if self.control_plane is not None:
                self.control_plane.check()
            raise LabError(f"{method} {path}: the control plane does not answer ({error})") from error
        if answer.status >= 400:
            raise LabError(f"{method} {path} was refused: {answer.status} {answer.text}")
        return answer.json() if answer.body else None

    @property
    def operator_headers(self) -> dict[str, str]:
        """What the API knows the scene's own admin by."""
        if not self.api_key_file.exists():
            argv = (*EXITPLANE, "init", "--name", OPERATOR, "--generate", "--api-key-file", str(self.api_key_file))
            environment = self.control_plane_environment
            self.processes.run(argv, environment=environment, timeout_s=self.settings.patience_s)
        return {"Authorization": f"Bearer {self.api_key_file.read_text().strip()}"}

    def declare(self) -> None:
        """Declare the fleet, its listener and a pool for each country, as far as a kept state does not have them yet."""
        host, port = self.gateway_address.rsplit(":", 1)
        listener = {"address": host, "port": int(port)}
        if self._has("fleets", FLEET):
            self.api("PATCH", f"/fleets/{FLEET}", {"listener": listener})
        else:
            self.api("POST", "/fleets", {"name": FLEET, "listener": listener})
        for country in self.countries:
            if not self._has("pools", country):
                pool = {
                    "name": country,
                    "fleet": FLEET,
                    "country": country,
                    "resilience": dict(self.settings.resilience),
                }
                self.api("POST", "/pools", pool)

    def write_token(self, role: str) -> Path:
        """Have a join token made, into the file that agents of `role` read."""
        argv = (*EXITPLANE, "token", "--role", role, "--fleet", FLEET)
        token = self.processes.run(argv, environment=self.control_plane_environment, timeout_s=self.settings.patience_s)
        path = self._token_file(role)
        path.touch(mode=0o600)
        path.write_text(token.strip())
        return path

    # -- traffic

    def ask(
        self,
        country: str | None,
        *,
        path: str = "/",
        tunnel: bool = True,
        by: str = "user name",
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = http_client.TIMEOUT_S,
    ) -> HttpAnswer:
        """What the page answers through the gateway, asked for in `country`: `by` "user name" or "header".

        `tunnel` asks by CONNECT, else as a plain proxy request; `headers` go to the page. Raises OSError if no answer
        comes at all.
        """
        if country is None:
            wish = {}
        elif by == "header":
            wish = {"exit-country": country}
        else:
            wish = http_client.user_headers(f"demo-country-{country}")
        url = (base_url or self.page_url) + path
        return http_client.fetch_through(
            self.gateway_address, url, tunnel=tunnel, proxy_headers=wish, headers=headers, timeout_s=timeout_s
        )

    # -- waiting

    def wait_until_healthy(self) -> None:
        """Wait until the control plane holds every running exit for healthy."""
        self._tell("waiting for the exits to be verified")
        running = [agent.child for agent in (self.gateway, *self.exits) if agent.child]
        self.wait_for("the exits to be healthy", self._exits_trouble, running)

    def wait_until_serving(self) -> None:
        """Wait until requests for every country come through. One that leaves elsewhere ends the wait with SceneError."""
        self._tell("waiting for the gateway to serve every country")
        children = [self.gateway.child]
        for country in self.countries:
            self.wait_for(f"the gateway to serve {country}", partial(self._serving_trouble, country), children)

    def wait_for(
        self,
        what: str,
        trouble: Callable[[], str | None],
        children: Sequence[Child | None] = (),
        timeout_s: float | None = None,
    ) -> None:
        """Wait until `trouble()`, which says what is still missing, is None, and none of `children` ended meanwhile."""
        patience_s = timeout_s or self.settings.patience_s
        deadline = time.monotonic() + patience_s
        while (missing := trouble()) is not None:
            for child in children:
                if child is not None:
                    child.check()
            if time.monotonic() > deadline:
                raise LabError(f"waited {patience_s:g} s for {what}: {missing}")
            time.sleep(0.1)

    def _page_trouble(self) -> str | None:
        return _trouble(f"{self.page_url}/seen")

    def _control_plane_trouble(self) -> str | None:
        return _trouble(f"{self.api_url}/health/ready")

    def _exits_trouble(self) -> str | None:
        states = {item["name"]: item for item in self.api("GET", "/exits")["items"]}
        waiting = []
        for exit_ in self.exits:
            item = states.get(exit_.name, {})
            if exit_.child is not None and item.get("state") != "healthy":
                said = f"{item.get('state', 'not registered')} ({item.get('state_reason') or 'no reason given'})"
                waiting.append(f"{exit_.name} is {said}, its log ends:\n{exit_.child.tail(4)}")
        return "; ".join(waiting) or None

    def _serving_trouble(self, country: str) -> str | None:
        try:
            answer = self.ask(country, tunnel=False)
        except OSError as error:
            return str(error)
        if answer.status != 200:
            return f"{answer.status} {answer.text}"
        source = answer.json()["source"]
        if source not in self.egress_addresses(country):
            raise LabError(f"a request for {country} reached the page from {source}, which is no exit there")
        return None

    # -- parts

    def _make_gateway(self) -> AgentProcess:
        arguments = gateway_arguments(
            api_url=self.api_url,
            token_file=self._token_file("gateway"),
            drain_time_s=self.settings.gateway_drain_time_s,
            extra=self.settings.gateway_arguments,
        )
        return AgentProcess(GATEWAY, self.state_dir / GATEWAY, arguments, self.processes)

    def _make_exit(self, number: int) -> ExitAgent:
        site = self.plan.sites[number]
        arguments = exit_arguments(
            site,
            api_url=self.api_url.replace(HOST, self.host_source),
            token_file=self._token_file("exit"),
            probe=self.page_address,
            host_address=self.host_source,
            extra=self.settings.exit_arguments,
        )
        tunnel = DemoTunnel(self.plan, site, self.processes) if site.tunnel else None
        folder = self.state_dir / site.name
        return ExitAgent(site.name, folder, arguments, self.processes, site.namespace, site=site, tunnel=tunnel)

    def _token_file(self, role: str) -> Path:
        return self.state_dir / f"{role}.token"

    def _has(self, collection: str, name: str) -> bool:
        return any(item["name"] == name for item in self.api("GET", f"/{collection}")["items"])


def _trouble(url: str) -> str | None:
    try:
        answer = http_client.fetch(url, timeout_s=5)
    except OSError as error:
        return str(error)
    return None if answer.status == 200 else f"{answer.status} {answer.text}"
