"""The command `exitplane agent`, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.config.state_dir import StateDir
from cli.main import main
from model.entities import Role

pytestmark = pytest.mark.envoy

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
TOKEN = "ep-exit-never-to-be-seen"


@pytest.fixture
async def run_command():
    """Give `await run_command(*arguments)`, which runs `exitplane agent` as a process of its own."""
    begun = []

    async def begin(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        env = {**os.environ, **environment}
        command = (sys.executable, "-m", "cli", "agent", *arguments)
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=pipe, stdout=pipe, env=env)
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def arguments_of(settings) -> Sequence[str]:
    given = ("--role", settings.role, "--api", str(settings.api), "--token-file", str(settings.token_file))
    given += ("--state", str(settings.state), "--name", settings.name, "--concurrency", "1")
    if settings.exit:
        given += ("--pool", settings.exit.pool, "--address", settings.exit.address, "--port", str(settings.exit.port))
    return given


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_agent_in_order_with_status_0(plane, source, make_settings, run_command, until, number):
    process = await run_command(*arguments_of(make_settings(Role.EXIT)))
    await until(lambda: plane.said(envoy="up", tunnel="up", reason="not watched"), timeout_s=PATIENCE_S)
    process.send_signal(number)
    async with asyncio.timeout(PATIENCE_S):
        stdout, stderr = await process.communicate()

    assert process.returncode == 0
    assert plane.said(stopping=True)
    assert stderr == b""
    events = [json.loads(line)["event"] for line in stdout.decode().splitlines()]
    assert events == ["agent.enrolled", "tunnel.up", "envoy.started", "envoy.live", "agent.stopping", "envoy.stopped"]
    assert TOKEN not in stdout.decode()
    assert "PRIVATE KEY" not in stdout.decode()


HEAVY = {"sqlalchemy", "sqlmodel", "fastapi", "betterproto2", "envoy_data_plane", "pycountry"}
"""Modules of the control plane, and others that take more memory than an idle agent may have."""


@pytest.mark.slow
@pytest.mark.parametrize("role", Role)
async def test_agent_imports_nothing_of_the_control_plane(plane, source, make_settings, run_command, until, role):
    process = await run_command(*arguments_of(make_settings(role)), PYTHONPROFILEIMPORTTIME="1")
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        _, stderr = await process.communicate()

    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in stderr.decode().splitlines()}
    assert {"grpc", "cryptography", "aiohttp"} <= imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize(("role", "survives"), [(Role.EXIT, False), (Role.GATEWAY, True)])
async def test_killed_agent_leaves_envoy_of_gateway_but_not_of_exit(
    plane, source, make_settings, run_command, start, until, role, survives, is_running
):
    settings = make_settings(role)
    process = await run_command(*arguments_of(settings))
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)
    pid = json.loads(StateDir(settings.state).read("envoy.json"))["pid"]
    process.kill()
    await process.wait()
    if not survives:
        await until(lambda: not is_running(pid))
    assert is_running(pid) is survives

    # the next agent takes the Envoy over or starts another, and ends it
    running = start(settings)
    plane.beats.clear()
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)
    assert (running.record["pid"] == pid) is survives
    assert len(plane.enrolled) == 1
    await running.end()
    assert not is_running(pid)


@pytest.mark.slow
async def test_adopted_envoy_uses_next_agent_without_control_plane(
    plane, source, make_settings, run_command, start, until
):
    settings = make_settings(Role.GATEWAY)
    process = await run_command(*arguments_of(settings))
    await until(lambda: plane.said(envoy="up"), timeout_s=PATIENCE_S)
    before = len(source.streams)
    process.kill()
    await process.wait()
    # Envoy reconnects past the socket of the killed agent
    await until(lambda: len(source.streams) > before, timeout_s=PATIENCE_S)
    with capture_logs() as logs:
        start(settings)
        await until(lambda: [entry for entry in logs if entry["event"] == "envoy.taken_over"], timeout_s=PATIENCE_S)
        await source.stop()
        await until(lambda: [entry for entry in logs if entry["event"] == "ads.from_record"], timeout_s=PATIENCE_S)
        await source.start()
        await until(lambda: [entry for entry in logs if entry["event"] == "ads.back"], timeout_s=PATIENCE_S)


async def test_error_is_one_line_and_status_1(plane, make_settings, run_command, answer):
    plane.instead = [answer(403, {"detail": "the join token is for the role gateway"})]
    process = await run_command(*arguments_of(make_settings(Role.EXIT)))
    async with asyncio.timeout(PATIENCE_S):
        _, stderr = await process.communicate()

    assert process.returncode == 1
    (line,) = stderr.decode().splitlines()
    assert line.startswith("exitplane: ")
    assert line.endswith("the join token is for the role gateway")


@pytest.fixture
def refused(monkeypatch, capsys):
    """Give `refused(*arguments)`, the line with which `exitplane agent` ends. It runs in this process, as another takes a second to start."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["exitplane", "agent", *arguments])
        monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
        monkeypatch.setattr("cli.agent.configure_logging", lambda _: None)  # of the whole process
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


OBSERVED = ("--observe", "http://127.0.0.1:1/json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--role", "exit"), "an exit needs --pool"),
        (("--role", "exit", "--pool", "us", "--address", "192.0.2.3"), "an exit needs --port"),
        (("--role", "gateway", "--pool", "us"), "--pool 'us': a gateway has none"),
        (("--role", "gateway", "--otlp", "x"), "--otlp 'x' is not host:port"),
        (("--probe", "example.net:443"), "--probe 'example.net' is not an IP address"),
        (("--bind-address", "x"), "--bind-address 'x' is not an IP address"),
        (("--tunnel-interface", "x" * 16), "--tunnel-interface"),
        (("--observe", "ipinfo.io"), "--observe 'ipinfo.io' is no URL"),
        (("--observe", "ftp://example.net/json"), "--observe"),
        (("--host-address", "example.net"), "--host-address 'example.net' is not an IP address"),
        (("--dns-zone", "who.example.net"), "--dns-zone needs --observe"),
        (("--geoip", "x.mmdb"), "--geoip needs --observe"),
        ((*OBSERVED, "--geoip", "/nowhere/x.mmdb"), "--geoip /nowhere/x.mmdb cannot be read (No such file"),
        ((*OBSERVED, "--geoip", __file__), f"--geoip {__file__} is truncated or no MaxMind DB"),
        ((*OBSERVED, "--dns-zone", "net"), "--dns-zone 'net' is no zone's name"),
        ((*OBSERVED, "--dns-allow", "192.0.2.0/24"), "--dns-allow needs --dns-zone"),
        ((*OBSERVED, "--dns-zone", "a.b", "--dns-allow", "192.0.2.1/24"), "--dns-allow '192.0.2.1/24' is no network"),
        ((*OBSERVED, "--speed-every-s", "60"), "--speed-every-s needs --speed-url"),
        ((*OBSERVED, "--locate", "x"), "--locate 'x' is no URL"),
        (("--locality", "EU"), "--locality 'EU' is not region or region/zone"),
    ],
)
def test_invalid_option_is_refused_with_hint(refused, tmp_path, arguments, message):
    if "--role" not in arguments:
        arguments = ("--role", "exit", "--pool", "us", "--address", "192.0.2.3", "--port", "1", *arguments)
    line = refused(*arguments, "--api", "http://127.0.0.1:1", "--state", str(tmp_path), "--name", "x")

    assert line.startswith(f"exitplane: {message}")
    assert "; " in line


async def test_options_may_come_from_environment(plane, source, make_settings, run_command, until):
    settings = make_settings(Role.EXIT)
    given = {
        "ROLE": "exit",
        "API": plane.url,
        "TOKEN_FILE": str(settings.token_file),
        "STATE": str(settings.state),
        "NAME": "us-1",
        "POOL": "us",
        "ADDRESS": "192.0.2.3",
        "PORT": "8443",
        "TUNNEL_INTERFACE": "lo",
        "KILL_SWITCH": "false",
        "CONCURRENCY": "1",
        "LOCALITY": "eu-west/a",
    }
    await run_command(**{f"EXITPLANE_AGENT_{name}": value for name, value in given.items()})
    await until(lambda: plane.said(envoy="up", tunnel="up", reason=""), timeout_s=PATIENCE_S)

    assert plane.enrolled[0]["name"] == "us-1"
    assert plane.enrolled[0]["locality"] == "eu-west/a"
