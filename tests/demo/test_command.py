"""The command as a person runs it: the whole plane, real Envoys, and nothing left of it afterwards."""

import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.underlay import why_no_tunnels
from tests.ports import reserved_port

DEMO = (sys.executable, "-m", "cli", "demo", "--gateway-port", "0", "--api-port", "0", "--xds-port", "0")
TUNNELS = pytest.param(
    "--tunnels",
    marks=[pytest.mark.tunnels, pytest.mark.skipif(why_no_tunnels() is not None, reason=f"{why_no_tunnels()}")],
)
whole = [pytest.mark.envoy, pytest.mark.postgres, pytest.mark.timeout(900)]


def run(*arguments):
    return subprocess.run((*DEMO, *arguments), capture_output=True, text=True, timeout=400, check=False)


@contextmanager
def running(*arguments, until):
    """The demo, at the point where it said `until`; gives the process and what it said so far."""
    with subprocess.Popen(
        (*DEMO, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    ) as demo:
        try:
            said = []
            for line in demo.stdout:
                said.append(line)
                if until in line:
                    break
            yield demo, said
        finally:
            demo.terminate()
            demo.communicate(timeout=120)


def survivors(folder):
    """The processes that still work in or with the demo's state folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if folder in (process / "cmdline").read_bytes().decode(errors="replace"):
                found.append(process.name)
        except OSError:
            continue
    return found


PLAIN = pytest.param("--plain", marks=pytest.mark.slow)


@pytest.mark.slow
class TestWhole:
    pytestmark = whole

    @pytest.mark.parametrize("mode", [TUNNELS, "--plain"])
    def test_the_check_is_content_and_says_what_the_page_saw(self, mode):
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
    def test_the_lines_to_copy_work_until_ctrl_c(self, mode):
        with running("--exits", "us,jp", mode, until="Ctrl-C ends") as (demo, said):
            folder = re.search(r"database in (\S+)", "".join(said))[1]
            lines = [line.strip() for line in said if line.startswith("  curl ")]
            assert len(lines) == 6 + ("page.internet.test" in "".join(lines))
            sources = {country: set() for country in ("us", "jp")}
            for line in lines:
                country = "jp" if "jp" in line else "us"
                sources[country].add(json.loads(shell(f"{line} -sS --max-time 60"))["source"])
            assert all(len(seen) == 1 for seen in sources.values())
            assert sources["us"] != sources["jp"]
            if mode == "--tunnels":
                cut_and_mend(said, lines[0], sources["us"])
            demo.send_signal(signal.SIGINT)
            assert demo.wait(120) == 0
        assert survivors(folder) == []
        assert not Path(folder).exists()


def shell(line):
    return subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, check=True).stdout


def cut_and_mend(said, ask, source):
    """Take the tunnel of the only exit away by the lines shown, and bring it back by them."""
    down, up = (line.partition("#")[0].strip() for line in said if line.startswith("  ip netns exec"))
    shell(down)
    refused = shell(f"{ask} -sS --max-time 60 -w ' %{{http_code}}'")
    assert refused.endswith(" 503")
    assert "pool us" in refused
    shell(up)
    # Its next heartbeat tells that the tunnel is back.
    answer = shell(f"{ask} -sS --max-time 60 --fail --retry 100 --retry-delay 1 --retry-all-errors")
    assert {json.loads(answer)["source"]} == source


@pytest.mark.slow
@pytest.mark.envoy
@pytest.mark.postgres
@pytest.mark.parametrize(
    ("until", "number"),
    [("control plane:", signal.SIGINT), ("agents:", signal.SIGTERM), ("verified", signal.SIGHUP)],
)
def test_an_interrupted_start_leaves_nothing(until, number):
    with running("--exits", "us", until=until) as (demo, said):
        folder = re.search(r"database in (\S+)", "".join(said))[1]
        demo.send_signal(number)
        rest, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert "everything is removed" in rest
    assert survivors(folder) == []
    assert not Path(folder).exists()


def test_a_port_in_use_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run("--gateway-port", str(port))
    assert done.returncode == 1
    assert done.stderr == (
        f"exitplane: port {port} on 127.0.0.1 is in use; choose another with --gateway-port (0 takes a free one)\n"
    )


def test_what_is_no_country_is_one_clear_line():
    done = run("--exits", "us,germany")
    assert done.returncode == 1
    assert done.stderr == (
        "exitplane: --exits: 'germany' is no two-letter country; write for example --exits us,gb,jp\n"
    )


@pytest.mark.slow
def test_a_control_plane_that_cannot_start_is_told_with_its_own_words(tmp_path):
    (tmp_path / "control-plane").write_text("this is no folder")
    done = run("--plain", "--state", str(tmp_path))
    assert done.returncode == 1
    assert "control-plane ended with status 1" in done.stderr
    assert "control-plane" in done.stderr.splitlines()[-1]


@pytest.mark.envoy
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kept_state_serves_again_at_other_addresses(tmp_path):
    for exits in ("us", "us,jp"):
        with reserved_port() as port:  # another one each time
            options = ("--state", str(tmp_path), "--exits", exits, "--gateway-port", str(port))
            done = run("--check", "--json", "--plain", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ok"] is True
    assert (tmp_path / "logs" / "control-plane.log").stat().st_size > 0
