"""A lab: a control plane, a gateway, exits and an internet on this machine."""

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
from demo.geo_map import build_geo_map
from demo.http_client import HttpAnswer
from demo.plan import PAGE_NAME, AddressPlan
from demo.processes import Child, ProcessGroup, StopStage
from demo.wireguard import DemoTunnel

FLEET: Final = "demo"
GATEWAY: Final = "gw-1"
OPERATOR: Final = "demo"
HOST: Final = "127.0.0.1"
ProgressCallback = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LabSettings:
    """The settings of a lab. Port 0 takes a free one; `tunnels` None means tunnels if this process can create them.

    `environment` is for the control plane and overrides the lab's own settings; the `…_arguments` are for the agents.
    `state_dir` is kept at the end; without one, a temporary folder is used and removed.
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
    """The resilience of the pools; missing fields have their defaults."""
    timeout_s: float = 180
    """The time limit of each wait. A start takes 10 s on an idle machine, and minutes on a very busy one."""


class Lab:
    """A lab on this machine, created by `demo.setup.open_lab`. Methods act at once, and raise LabError if they fail.

    exits        the exits in the order of the settings, with `.namespace`, `.egress_address`, `.state_dir`, `.envoy_pid`, …
    gateway      the gateway's agent
    host_source  the address of this host that the page sees without an exit, which reveals a leak
    api_key_file a file with an API key of the lab's admin, for `exitplane status` and other clients of the API
    """

    def __init__(
        self,
        settings: LabSettings,
        plan: AddressPlan,
        reason: str,
        ports: Mapping[str, int],
        state_dir: Path,
        processes: ProcessGroup,
        on_progress: ProgressCallback,
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
        self._on_progress = on_progress
        self.gateway = self._make_gateway()
        self.exits = [self._make_exit(number) for number in range(len(plan.sites))]

    @property
    def mode(self) -> str:
        """`tunnels` or `plain`."""
        return "tunnels" if self.plan.tunnels else "plain"

    @property
    def countries(self) -> list[str]:
        """The countries of the exits, each once, in the order of the settings."""
        return list(dict.fromkeys(self.settings.exits))

    def egress_addresses(self, country: str) -> set[str]:
        """Return the source addresses that targets may see in traffic for `country`."""
        return {exit_.egress_address for exit_ in self.exits if exit_.country == country}

    # -- start

    def start(self) -> None:
        """Start everything, and wait until requests for every country succeed."""
        self.start_page(wait=False)
        self.start_control_plane()
        self.wait_for("the page to answer", self._find_page_problem, [self.page])
        self.declare()
        self.start_agents()
        self.wait_until_healthy()
        self.wait_until_serving()

    def start_agents(self) -> None:
        """Start the gateway and every exit; `wait_until_healthy` waits for them."""
        self._on_progress(f"agents: {GATEWAY} and {', '.join(exit_.name for exit_ in self.exits)}, each with an Envoy")
        with ThreadPoolExecutor() as threads:
            list(threads.map(self.write_token, ("gateway", "exit")))
        for agent in (self.gateway, *self.exits):
            agent.start()

    # -- the page

    def start_page(self, *, wait: bool = True) -> None:
        """Start the page of the small internet."""
        self._on_progress(f"internet: a page at {self.page_url}/")
        argv = (sys.executable, "-P", "-m", "demo.internet", self.page_address, build_geo_map(self.plan).to_json())
        self.page = self.processes.start("page", StopStage.PAGE, argv, namespace=self.plan.internet)
        if wait:
            self.wait_for("the page to answer", self._find_page_problem, [self.page])

    def set_geolocation(self, path: str, override: str = "") -> None:
        """Override one format of the geolocation service (`demo.geolocation`); empty restores correct answers."""
        http_client.fetch(f"{self.page_url}{path}", method="PUT", body=override.encode())

    def count_requests(self) -> dict[str, int]:
        """Read the number of requests that the page has received from each source."""
        counts: dict[str, int] = http_client.fetch(f"{self.page_url}/seen").json()
        return counts

    # -- the control plane

    @property
    def control_plane_environment(self) -> dict[str, str]:
        """The settings of the control plane, also for its commands (`exitplane init`, …)."""
        hosts = dict.fromkeys((HOST, self.host_source))
        return {
            "EXITPLANE_STATE_DIR": str(self.state_dir / "control-plane"),
            "EXITPLANE_API_LISTEN": ",".join(f"{host}:{self._ports['--api-port']}" for host in hosts),
            "EXITPLANE_API_INSECURE": "true",  # the underlay is on this machine
            "EXITPLANE_XDS_LISTEN": ",".join(f"{host}:{self._ports['--xds-port']}" for host in hosts),
            "EXITPLANE_HEARTBEAT_INTERVAL_S": f"{self.settings.heartbeat_interval_s:g}",
            "EXITPLANE_SILENCE_TIMEOUT_S": f"{self.settings.silence_timeout_s:g}",
            **self.settings.environment,
        }

    def start_control_plane(self, *, wait: bool = True) -> None:
        """Start `exitplane serve` on the existing state, and wait until it is ready."""
        self._on_progress(f"control plane: API at {self.api_url}, database in {self.state_dir}")
        self.control_plane = self.processes.start(
            "control-plane",
            StopStage.CONTROL_PLANE,
            (*EXITPLANE, "serve"),
            environment=self.control_plane_environment,
        )
        if wait:
            self.wait_for("the control plane to be ready", self._find_control_plane_problem, [self.control_plane])

    def stop_control_plane(self) -> None:
        """Stop the control plane in order."""
        if self.control_plane is not None:
            self.processes.end([self.control_plane], timeout_s=20)
            self.control_plane = None

    def kill_control_plane(self) -> None:
        """Send SIGKILL to the control plane; an embedded database server continues to run."""
        if self.control_plane is not None:
            self.processes.kill(self.control_plane)
            self.control_plane = None

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call `/api/v1<path>`, and return the JSON of the reply, or None for an empty one.

        Raises LabError for a refusal, with its detail, and when the control plane has ended or does not answer.
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
        """The headers that authenticate the lab's admin, who is created on first use."""
        if not self.api_key_file.exists():
            argv = (*EXITPLANE, "init", "--name", OPERATOR, "--generate", "--api-key-file", str(self.api_key_file))
            environment = self.control_plane_environment
            self.processes.run(argv, environment=environment, timeout_s=self.settings.timeout_s)
        return {"Authorization": f"Bearer {self.api_key_file.read_text().strip()}"}

    def declare(self) -> None:
        """Declare the fleet, its listener and a pool for each country, unless a kept state has them."""
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
        """Create a join token for the first registrations of all agents of a role, in the file that they read."""
        agents = [self.gateway] if role == "gateway" else self.exits
        made = self.api("POST", "/join-tokens", {"fleet": FLEET, "role": role, "uses": len(agents)})
        path = self._token_file(role)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(made["token"])
        return path

    # -- traffic

    def request(
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
        """Request the page through the gateway from `country`, stated in the "user name" or in a "header" (`by`).

        `tunnel` uses CONNECT, else a plain proxy request; `headers` are for the page. Raises OSError without any answer.
        """
        if country is None:
            proxy_headers = {}
        elif by == "header":
            proxy_headers = {"exit-country": country}
        else:
            proxy_headers = http_client.user_headers(f"demo-country-{country}")
        url = (base_url or self.page_url) + path
        return http_client.fetch_through(
            self.gateway_address, url, tunnel=tunnel, proxy_headers=proxy_headers, headers=headers, timeout_s=timeout_s
        )

    # -- waiting

    def wait_until_healthy(self) -> None:
        """Wait until every running exit is healthy for the control plane."""
        self._on_progress("waiting for the exits to be verified")
        running = [agent.child for agent in (self.gateway, *self.exits) if agent.child]
        self.wait_for("the exits to be healthy", self._find_exits_problem, running)

    def wait_until_serving(self) -> None:
        """Wait until requests for every country succeed. Raises LabError for a request from another country."""
        self._on_progress("waiting for the gateway to serve every country")
        children = [self.gateway.child]
        for country in self.countries:
            self.wait_for(f"the gateway to serve {country}", partial(self._find_serving_problem, country), children)

    def wait_for(
        self,
        what: str,
        find_problem: Callable[[], str | None],
        children: Sequence[Child | None] = (),
        timeout_s: float | None = None,
    ) -> None:
        """Wait until `find_problem()` returns None. Raises LabError with its last text, or if one of `children` ends."""
        limit_s = timeout_s or self.settings.timeout_s
        deadline = time.monotonic() + limit_s
        while (problem := find_problem()) is not None:
            for child in children:
                if child is not None:
                    child.check()
            if time.monotonic() > deadline:
                raise LabError(f"waited {limit_s:g} s for {what}: {problem}")
            time.sleep(0.1)

    def _find_page_problem(self) -> str | None:
        return _find_problem(f"{self.page_url}/seen")

    def _find_control_plane_problem(self) -> str | None:
        return _find_problem(f"{self.api_url}/health/ready")

    def _find_exits_problem(self) -> str | None:
        states = {item["name"]: item for item in self.api("GET", "/exits")["items"]}
        waiting = []
        for exit_ in self.exits:
            item = states.get(exit_.name, {})
            if exit_.child is not None and item.get("state") != "healthy":
                state = f"{item.get('state', 'not registered')} ({item.get('state_reason') or 'no reason given'})"
                waiting.append(f"{exit_.name} is {state}, its log ends:\n{exit_.child.tail(4)}")
        return "; ".join(waiting) or None

    def _find_serving_problem(self, country: str) -> str | None:
        try:
            answer = self.request(country, tunnel=False)
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


def _find_problem(url: str) -> str | None:
    try:
        answer = http_client.fetch(url, timeout_s=5)
    except OSError as error:
        return str(error)
    return None if answer.status == 200 else f"{answer.status} {answer.text}"
