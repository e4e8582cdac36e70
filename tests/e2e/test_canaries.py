"""Secrets of a running control plane, gateway and exit are nowhere but in the files that are made for them."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

import grpc
import pytest

from demo import http_client
from demo.http_client import user_headers
from demo.lab import FLEET, Lab
from demo.setup import open_lab
from model.authority import create_authority, issue_server
from tests.e2e.labs import settings_of
from tests.gluetun import GluetunStandIn, running
from tests.ports import reserved_port
from tests.server.otlp_sink import SERVICE

NAME = "page.internet.test"
PARENT, GLUETUN, OPERATOR, CLIENT, SESSION, QUERY = (
    f"c4n4ry-{kind}-5d1f" for kind in ("parent", "gluetun", "operator", "client", "session", "query")
)
ADMIN_PAGES = (
    *("/config_dump?include_eds", "/stats?usedonly", "/stats/prometheus", "/clusters", "/listeners", "/certs"),
    *("/server_info", "/init_dump", "/memory", "/runtime"),
)
ALL_LISTS = re.compile(r"^/api/v1/[a-z-]+$")


@dataclass
class PlantedLab:
    """A lab in which each kind of secret is in use."""

    lab: Lab
    canaries: dict[str, str] = field(default_factory=dict)
    """The kind of each secret, by its text."""
    metrics_url: str = ""
    spans: list[bytes] = field(default_factory=list)
    """The requests with spans that the control plane exported."""

    def found_in(self, content: bytes) -> set[str]:
        return {kind for secret, kind in self.canaries.items() if secret.encode() in content}


def _plant_parent(lab: Lab, parent: GluetunStandIn, folder: Path) -> None:
    credentials, key = folder / "parent", folder / "key"
    for file, text in ((credentials, f"exit\n{PARENT}\n"), (key, f"{GLUETUN}\n")):
        file.touch(mode=0o600)
        file.write_text(text)
    lab.exits[0].arguments += (
        *("--parent", f"127.0.0.1:{parent.proxy_port}", "--parent-credentials", str(credentials)),
        *("--gluetun", parent.control_url, "--gluetun-key-file", str(key)),
    )


@pytest.fixture(scope="module")
def core_files() -> Iterator[None]:
    """Allow core files of any size, as some systems do."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Run a collector of spans while the block lasts. Yield its URL, and the requests that it received."""
    received: list[bytes] = []

    def take(request: bytes, _context: grpc.ServicerContext) -> bytes:
        received.append(request)
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(take)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", received
    server.stop(None).wait()


@pytest.fixture(scope="module")
def planted(core_files, tmp_path_factory) -> Iterator[PlantedLab]:
    parent = GluetunStandIn(
        username="exit", password=PARENT, source="127.0.0.201", api_key=GLUETUN, names={NAME: "127.0.0.1"}
    )
    environment: dict[str, str] = {}
    with (
        collector() as (collector_url, spans),
        open_lab(settings_of("us", tunnels=False, environment=environment)) as lab,
        ExitStack() as stack,
    ):
        # another address with the port that is the lab's own
        metrics = f"127.0.0.3:{lab.api_url.rpartition(':')[2]}"
        environment |= {"EXITPLANE_METRICS_LISTEN": metrics, "OTEL_EXPORTER_OTLP_ENDPOINT": collector_url}
        environment["OTEL_BSP_SCHEDULE_DELAY"] = "100"
        parent.names = {NAME: str(lab.plan.page_address)}
        stack.enter_context(running(parent))
        _plant_parent(lab, parent, tmp_path_factory.mktemp("credentials"))
        lab.start_page()
        lab.set_geolocation(f"/ipinfo/{parent.source}", "us")
        lab.start_control_plane()
        lab.declare()
        made = PlantedLab(lab, {PARENT: "parent's password", GLUETUN: "gluetun's key", CLIENT: "client's password"})
        made.metrics_url, made.spans = f"http://{metrics}/metrics", spans
        made.canaries |= {SESSION: "a target's cookie", QUERY: "a target's query", OPERATOR: "operator's password"}
        _plant_operator(made)
        _plant_certificate(made)
        lab.start_agents()
        for role in ("gateway", "exit"):
            made.canaries[(lab.state_dir / f"{role}.token").read_text().strip()] = "join token"
        made.canaries[lab.api_key_file.read_text().strip()] = "API key"
        lab.wait_until_healthy()
        for tunnel in (True, False):
            lab.wait_for("requests to succeed", partial(_find_problem, lab, tunnel=tunnel))
        yield made


def _find_problem(lab: Lab, *, tunnel: bool) -> str | None:
    """Send a request with a client's secrets, and return what is wrong with its answer, or why there is none."""
    try:
        answer = http_client.fetch_through(
            lab.gateway_address,
            f"http://{NAME}:{lab.plan.page_port}/?q={QUERY}",
            tunnel=tunnel,
            proxy_headers=user_headers("demo-country-us", CLIENT),
            headers={"Cookie": SESSION},
        )
    except OSError as error:  # exits may be healthy before the gateway listens
        return str(error)
    return None if answer.status == 200 else answer.text


def _plant_operator(planted: PlantedLab) -> None:
    """Create an operator with a password and a second factor, and log in."""
    lab = planted.lab
    lab.api("POST", "/operators", {"name": "ada", "role": "viewer", "password": OPERATOR})
    login = json.dumps({"name": "ada", "password": OPERATOR}).encode()
    headers = {"Content-Type": "application/json"}
    answer = http_client.fetch(f"{lab.api_url}/api/v1/auth/login", method="POST", headers=headers, body=login)
    tokens = answer.json()
    planted.canaries |= {tokens["access_token"]: "access token", tokens["refresh_token"]: "refresh token"}
    headers["Authorization"] = f"Bearer {tokens['access_token']}"
    totp = http_client.fetch(f"{lab.api_url}/api/v1/auth/totp", method="POST", headers=headers, body=b"")
    planted.canaries[totp.json()["secret"]] = "second factor"


def _plant_certificate(planted: PlantedLab) -> None:
    """Upload a certificate, and present it at a listener."""
    now = datetime.now(UTC)
    pair = issue_server(create_authority(now), now, ["gateway.example"])
    planted.canaries |= dict.fromkeys(pair.key_pem.splitlines()[1:-2], "certificate's key")
    body = {"name": "web", "fleet": FLEET, "chain": pair.certificate_pem, "key": pair.key_pem}
    planted.lab.api("POST", "/certificates", body)
    with reserved_port() as port:
        listener = {"name": "tls", "fleet": FLEET, "address": "127.0.0.1", "port": port, "certificate": "web"}
        planted.lab.api("POST", "/listeners", listener)


def test_no_secret_is_in_a_file_but_those_made_for_it(planted):
    state = planted.lab.state_dir
    found = {}
    for path in state.rglob("*"):
        if path.is_file() and (kinds := planted.found_in(path.read_bytes())):
            found[str(path.relative_to(state))] = kinds
    assert found == {"operator.key": {"API key"}, "gateway.token": {"join token"}, "exit.token": {"join token"}}
    assert {(state / name).stat().st_mode & 0o077 for name in found} == {0}


def test_no_secret_is_in_what_envoys_admin_interface_shows(planted):
    for agent in (planted.lab.gateway, *planted.lab.exits):
        for page in ADMIN_PAGES:
            assert planted.found_in(agent.query_admin(page).encode()) == set(), (agent.name, page)


def test_no_secret_is_in_a_reply_of_the_api(planted):
    lab = planted.lab
    paths = http_client.fetch(f"{lab.api_url}/openapi.json").json()["paths"]
    lists = [path for path, methods in paths.items() if "get" in methods and ALL_LISTS.match(path)]
    assert len(lists) > 15
    for path in lists:
        if path != "/api/v1/events":
            answer = http_client.fetch(f"{lab.api_url}{path}", headers=lab.operator_headers)
            assert planted.found_in(answer.body) == set(), path


def test_no_secret_is_in_metrics_and_traces(planted, eventually):
    text = http_client.fetch(planted.metrics_url).body
    assert b'pool="us"' in text
    assert planted.found_in(text) == set()
    eventually(lambda: b"POST /api/v1/certificates" in b"".join(planted.spans))
    assert planted.found_in(b"".join(planted.spans)) == set()


def test_no_process_leaves_a_core_file(planted):
    """A core file has all that the process holds, keys among it."""
    agents = (planted.lab.gateway, *planted.lab.exits)
    pids = chain([planted.lab.control_plane.pid], *((agent.child.pid, agent.envoy_pid) for agent in agents))
    for pid in pids:
        limits = (Path("/proc") / str(pid) / "limits").read_text()
        assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE), limits
