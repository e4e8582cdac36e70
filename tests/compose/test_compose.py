"""docker-compose.yml in a real container engine: requests through each country while parts end and return."""

from __future__ import annotations

import re
import shlex
import socket
from subprocess import CompletedProcess

import pytest

from demo.compose import read_plan
from demo.provider import write_accounts
from tests.compose.composition import IMAGES, ROOT, composition, require_images, run_image

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(1_800)]
COUNTRIES = {"us": {"198.51.100.1", "198.51.100.2"}, "gb": {"198.51.100.3"}, "jp": {"198.51.100.4"}}
LASTING = ("postgres", "control-plane", "gateway", "provider", "us-1", "us-2", "gb-1", "jp-1")
DOCUMENTED = re.compile(r"^docker compose exec (\S+) ((?:(?!demo-pool-vpn)[^>|&\n])+?)(?: > \S+)?$", re.MULTILINE)
"""Commands of docs/compose.md that work at any moment."""
STEP = ("-m", "demo.compose")
STATE = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"
NEWER_SCHEMA = """
import asyncio, asyncpg

async def change():
    connection = await asyncpg.connect("postgresql://exitplane@postgres/exitplane")
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")

asyncio.run(change())
"""


def test_compose_file_serves_each_country_while_parts_restart():
    require_images()
    gluetun = {"VPN_SERVICE_PROVIDER": "mullvad", "SERVER_COUNTRIES": "Germany", "GLUETUN_COUNTRY": "de"}
    gluetun |= {"GLUETUN_IMAGE": f"{IMAGES}/gluetun", "GLUETUN_OBSERVE": "http://203.0.113.2/ipinfo"}
    with composition(**gluetun) as demo:
        demo.up()
        for country, sources in COUNTRIES.items():
            demo.wait_for(f"{country} to serve", lambda: demo.fetch(country)[1] in sources)  # noqa: B023  # used at once
        for service in LASTING:
            demo.wait_for(f"{service} to be healthy", lambda: demo.is_healthy(service), service)  # noqa: B023

        commands = DOCUMENTED.findall((ROOT / "docs/compose.md").read_text())
        assert len(commands) >= 6
        for service, command in commands:
            # under load podman's name server may not answer in time
            demo.wait_for(command, lambda: demo.exec(service, *shlex.split(command)).returncode == 0, service)  # noqa: B023

        # an exit that dies: its pool's other exit serves; of a country without another one, a clear 503
        demo.kill("us-1")
        demo.wait_for(
            "the other exit of us", lambda: [demo.fetch("us") for _ in range(5)] == [(200, "198.51.100.2")] * 5
        )
        demo.kill("jp-1")
        demo.wait_for("a refusal for jp", lambda: demo.fetch("jp")[0] == 503)
        assert demo.fetch("gb") == (200, "198.51.100.3")

        # the control plane and its database, one after the other, while requests go on
        with demo.traffic("gb") as statuses:
            for service in ("control-plane", "postgres"):
                demo.restart(service)
                demo.wait_for("the control plane to be ready", lambda: demo.is_healthy("control-plane"))
        assert len(statuses) > 10
        assert set(statuses) == {"200"}

        # a second `up` enrols nobody anew and brings back what ended; with the profile, it adds an exit behind gluetun
        before = demo.exec("control-plane", "cat", "/state/admin.key").stdout
        demo.up("--profile", "gluetun")
        for country, sources in COUNTRIES.items():
            demo.wait_for(f"{country} to serve again", lambda: demo.fetch(country)[1] in sources)  # noqa: B023
        assert demo.inspect("setup", "{{.State.ExitCode}}") == "0"
        # a host that filters bridged packets replaces the container's address by the network's
        addresses = {f"{demo.net}.13", f"{demo.net}.1"}
        for each in addresses:
            demo.exec("provider", "curl", "-fsS", "-X", "PUT", "-d", "de", f"http://203.0.113.2/ipinfo/{each}")
        demo.wait_for("the exit behind gluetun", lambda: demo.fetch(pool="vpn")[1] in addresses, "gluetun", "vpn-1")
        assert demo.exec("control-plane", "cat", "/state/admin.key").stdout == before

        # starts that are impossible end by themselves, with their reason
        database = ("--network", f"{demo.name}_database", "--entrypoint", "python")
        url = "postgresql://exitplane:wrong@postgres/exitplane"
        refused = run_image(
            "control-plane", *database, "-e", f"EXITPLANE_DATABASE_URL={url}", "--", *STEP, "control-plane"
        )
        assert_refused(refused, r"PostgreSQL refuses the login \(password .*; correct the user and the password")
        demo.exec("control-plane", "python", "-c", NEWER_SCHEMA)
        demo.restart("control-plane")
        demo.wait_for("the control plane to give up", lambda: demo.inspect("control-plane", STATE) == "exited 1 3")
        line = re.findall("^exitplane: .*$", demo.logs("control-plane"), re.MULTILINE)[-1]
        assert re.search(r"at migration 9999, newer than this version.*; run the version", line)
        assert demo.fetch("gb") == (200, "198.51.100.3")

        demo.down()
        assert [each for kind in ("container", "volume", "network") for each in demo.remains(kind)] == []


def test_container_without_what_it_needs_ends_with_a_line_and_a_hint(tmp_path):
    require_images()
    servers, customers = tmp_path / "servers", tmp_path / "customers"
    for folder in (servers, customers):
        folder.mkdir()
    write_accounts(read_plan({"EXITPLANE_NET": "10.9.8"}), servers, customers)
    exit_ = ("agent", "--api", "https://192.0.2.9:8000", "--name", "us-1", "--pool", "us", "--address", "192.0.2.1")
    exit_ += ("--port", "8443", "--tunnel", "/accounts/us-1.conf", "--state", "/tmp/state")
    files = ("-v", f"{customers}:/accounts:ro")
    python = ("--entrypoint", "python")
    volumes = ("--tmpfs", "/servers", "--tmpfs", "/accounts")
    refused = run_image("exit", *files, "--", *exit_)
    assert_refused(refused, r"lacks CAP_NET_ADMIN\); .*--cap-add NET_ADMIN")
    refused = run_image("exit", *files, "--cap-add", "NET_ADMIN", "--", *exit_)
    assert_refused(refused, r"/dev/net/tun is missing.*--device /dev/net/tun")
    refused = run_image("exit", *python, *volumes, "-e", "EXITPLANE_NET=10.9.8", "--", *STEP, "provider")
    assert_refused(refused, r"lacks CAP_NET_ADMIN\); .*--cap-add NET_ADMIN")
    refused = run_image("control-plane", *python, "--", *STEP, "gluetun")
    assert_refused(refused, r"VPN_SERVICE_PROVIDER, SERVER_COUNTRIES, GLUETUN_COUNTRY: no value in \.env; copy")
    refused = run_image("gateway", "--entrypoint", "wait-for", "-e", "WAIT_FOR_S=1", "--", "/join/ready", "--", "true")
    assert_refused(refused, r"/join/ready is still missing after 1 s; see the log of")


def test_port_in_use_is_named():
    require_images()
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        composition(EXITPLANE_API_PORT=taken.getsockname()[1]) as demo,
    ):
        done = demo.compose("up", "-d", "--no-build", "control-plane")
        assert done.returncode != 0
        assert "address already in use" in done.stderr


def assert_refused(done: CompletedProcess[str], pattern: str) -> None:
    """Check that a container ended with 1, and that its only line of standard error matches."""
    assert done.returncode == 1, done
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("exitplane: ")]  # others are podman's own
    assert "Traceback" not in done.stderr
    assert re.search(f"^exitplane: .*{pattern}", line), line
