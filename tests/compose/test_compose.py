"""docker-compose.yml in a real container engine: requests through each country while parts end and return."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.compose.composition import ROOT, composition, require_images, run_image

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(1_800)]
COUNTRIES = {"us": {"198.51.100.1", "198.51.100.2"}, "gb": {"198.51.100.3"}, "jp": {"198.51.100.4"}}
LASTING = ("postgres", "control-plane", "gateway", "provider", "us-1", "us-2", "gb-1", "jp-1")
DOCUMENTED = re.compile(r"^docker compose exec (\S+) (.+)$", re.MULTILINE)
"""Commands of docs/compose.md that work at any moment."""


def test_compose_file_serves_each_country_while_parts_restart():
    require_images()
    with composition() as demo:
        demo.up()
        for country, sources in COUNTRIES.items():
            demo.wait_for(f"{country} to serve", lambda: demo.fetch(country)[1] in sources)  # noqa: B023  # used at once
        for service in LASTING:
            demo.wait_for(f"{service} to be healthy", lambda: demo.is_healthy(service), [service])  # noqa: B023

        commands = DOCUMENTED.findall((ROOT / "docs/compose.md").read_text())
        assert len(commands) >= 6
        for service, command in commands:
            done = demo.exec(service, *shlex.split(command, comments=True))
            assert done.returncode == 0, (command, done.stdout, done.stderr)

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

        # a second `up` changes nothing that runs, enrols nobody anew, and brings back what ended
        before = demo.exec("control-plane", "cat", "/state/admin.key").stdout
        demo.up()
        for country, sources in COUNTRIES.items():
            demo.wait_for(f"{country} to serve again", lambda: demo.fetch(country)[1] in sources)  # noqa: B023
        assert demo.inspect("setup", "{{.State.ExitCode}}") == "0"
        assert demo.exec("control-plane", "cat", "/state/admin.key").stdout == before

        demo.down()
        assert [each for kind in ("container", "volume", "network") for each in demo.remains(kind)] == []


def test_each_impossible_start_ends_with_one_line_and_a_hint():
    require_images()
    exit_ = ("--role", "exit", "--api", "https://192.0.2.9:8000", "--name", "us-1", "--pool", "us", "--port", "8443")
    agent = ("agent", *exit_, "--address", "192.0.2.1", "--tunnel", "/join/us.conf", "--state", "/tmp/state")
    for options, target, command, line in (((), "exit", agent, r"lacks CAP_NET_ADMIN.*--cap-add NET_ADMIN"),):
        done = run_image(target, *options, "--", *command)
        assert done.returncode == 1
        (said,) = [each for each in done.stderr.splitlines() if each.startswith("exitplane: ")]
        assert re.search(line, said), said
