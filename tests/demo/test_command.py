"""Tests of `exitplane demo` with real Envoys, and of its cleanup."""

import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.underlay import find_tunnel_obstacle
from tests.ports import reserved_port

DEMO = (sys.executable, "-m", "cli", "demo", "--gateway-port", "0", "--api-port", "0", "--xds-port", "0")
TUNNELS = pytest.param(
    "--tunnels",
    marks=[
        pytest.mark.tunnels,
        pytest.mark.skipif(find_tunnel_obstacle() is not None, reason=f"{find_tunnel_obstacle()}"),
    ],
)
whole = [pytest.mark.envoy, pytest.mark.postgres, pytest.mark.timeout(900)]


def run(*arguments):
    return subprocess.run((*DEMO, *arguments), capture_output=True, text=True, timeout=800, check=False)


@contextmanager
def running(*arguments, until):
    """Run the demo until it prints `until`, and yield its process and its output so far."""
    with subprocess.Popen(
        (*DEMO, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as demo:
        try:
            output = []
            for line in demo.stdout:
                output.append(line)
                if until in line:
                    break
            yield demo, output
        finally:
            demo.terminate()
            demo.communicate(timeout=120)


def processes_using(folder):
    """Find the processes whose command line contains the demo's state folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if folder in (process / "cmdline").read_bytes().decode(errors="replace"):
                found.append(process.name)
        except OSError:
            continue
    return found


PATIENT = "-sS --max-time 60 --fail --retry 100 --retry-delay 1 --retry-all-errors"
"""Options of curl. An exit that answers a health check late on a busy machine is out of use for a moment."""
PLAIN = pytest.param("--plain", marks=pytest.mark.slow)


@pytest.mark.slow
class TestCompleteDemo:
    pytestmark = whole

    @pytest.mark.parametrize("mode", [TUNNELS, "--plain"])
    def test_check_succeeds_and_reports_what_the_page_saw(self, mode):
        done = run("--check", "--json", "--exits", "us,us,jp", mode)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["ok"] is True
        assert f"--{report['mode']}" == mode
        assert report["seconds"] > 0
        assert len(set(report["expected"]["us"] + report["expected"]["jp"])) == 3
        for finding in report["findings"]:
            if finding["country"] in report["expected"]:
                assert finding["source"] in report["expected"][finding["country"]]
                assert {name.lower() for name, _ in finding["headers"]} == {"host", "user-agent", "accept-encoding"}
            else:
                assert finding["source"] is None
        ways = {(finding["country"], finding["way"], finding["by"]) for finding in report["findings"]}
        assert {(country, way, by) for country, way, by in ways if country == "jp"} == {
            ("jp", way, by) for way in ("plain", "CONNECT") for by in ("user name", "header")
        }

    @pytest.mark.parametrize("mode", [TUNNELS, PLAIN])
    def test_printed_commands_work_until_ctrl_c(self, mode):
        with running("--exits", "us,jp", mode, until="Ctrl-C ends") as (demo, output):
            folder = re.search(r"database in (\S+)", "".join(output))[1]
            lines = [line.strip() for line in output if line.startswith("  curl ")]
            assert len(lines) == 6 + ("page.internet.test" in "".join(lines)), "".join(output)
            sources = {country: set() for country in ("us", "jp")}
            for line in lines:
                country = "jp" if "jp" in line else "us"
                sources[country].add(json.loads(shell(f"{line} {PATIENT}"))["source"])
            assert all(len(seen) == 1 for seen in sources.values())
            assert sources["us"] != sources["jp"]
            if mode == "--tunnels":
                break_and_restore_tunnel(output, lines[0], sources["us"])
            demo.send_signal(signal.SIGINT)
            assert demo.wait(120) == 0
        assert processes_using(folder) == []
        assert not Path(folder).exists()


def shell(line):
    return subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, check=True).stdout


def break_and_restore_tunnel(output, ask, source):
    """Break the tunnel of the only exit with the printed commands, and restore it with them."""
    down, up = (line.partition("#")[0].strip() for line in output if line.startswith("  ip netns exec"))
    shell(down)
    refused = shell(f"{ask} -sS --max-time 60 -w ' %{{http_code}}'")
    assert refused.endswith(" 503")
    assert "pool us" in refused
    shell(up)
    # its next heartbeat reports the restored tunnel
    answer = shell(f"{ask} {PATIENT}")
    assert {json.loads(answer)["source"]} == source


@pytest.mark.slow
@pytest.mark.envoy
@pytest.mark.postgres
@pytest.mark.parametrize(
    ("until", "number"),
    [("control plane:", signal.SIGINT), ("agents:", signal.SIGTERM), ("verified", signal.SIGHUP)],
)
def test_interrupted_start_leaves_nothing(until, number):
    with running("--exits", "us", until=until) as (demo, output):
        folder = re.search(r"database in (\S+)", "".join(output))[1]
        demo.send_signal(number)
        rest, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert "everything is removed" in rest
    assert processes_using(folder) == []
    assert not Path(folder).exists()


def test_port_in_use_is_reported_on_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run("--gateway-port", str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"exitplane: port {port} on 127.0.0.1 is in use; choose another with --gateway-port (0 takes a free one)\n"
    )


def test_invalid_country_is_reported_on_one_line():
    done = run("--exits", "us,germany")
    assert done.returncode == 1
    assert done.stderr == (
        "exitplane: --exits: 'germany' is not a two-letter country code; write, for example, --exits us,gb,jp\n"
    )


@pytest.mark.slow
def test_failed_start_of_the_control_plane_shows_its_log(tmp_path):
    (tmp_path / "control-plane").write_text("this is no folder")
    done = run("--plain", "--state", str(tmp_path))
    assert done.returncode == 1
    assert "control-plane ended with status 1" in done.stderr
    assert "control-plane" in done.stderr.splitlines()[-1]


@pytest.mark.envoy
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kept_state_works_with_other_addresses(tmp_path):
    for exits in ("us", "us,jp"):
        with reserved_port() as port:  # a different port each time
            options = ("--state", str(tmp_path), "--exits", exits, "--gateway-port", str(port))
            done = run("--check", "--json", "--plain", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ok"] is True
    assert (tmp_path / "logs" / "control-plane.log").stat().st_size > 0
