"""The services of docker-compose.yml in a real container engine: images, a project of its own, and its complete removal."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest

from tests.keeper.podman import require_podman, run_podman

ROOT = Path(__file__).parents[2]
IMAGES = "localhost/exitplane-compose"
"""The prefix of the images' names. They stay after a run: their layers make the next build fast."""
TARGETS = ("control-plane", "gateway", "exit")
PYTHON_IMAGE = "docker.io/library/python:3.11-slim-bookworm"
POSTGRES_IMAGE = "docker.io/library/postgres:18"
COMPOSE = Path(sys.executable).with_name("podman-compose")
BUILD_WITHIN_S = 1_500
_WITHIN_S = 240
PROJECT_LABEL = "io.podman.compose.project"


GLUETUN = f"""
FROM {IMAGES}/exit
COPY gluetun.py ports.py /stand-in/tests/
COPY compose/gluetun_entrypoint.py /stand-in/
RUN printf '#!/bin/sh\\nPYTHONPATH=/stand-in exec python /stand-in/gluetun_entrypoint.py\\n' > /gluetun-entrypoint \\
    && chmod 755 /gluetun-entrypoint
"""


@cache
def require_images() -> None:
    """Build the images, from base images that the engine has or can pull. Skips the test with the reason where it cannot."""
    require_podman()
    for image in (PYTHON_IMAGE, POSTGRES_IMAGE):
        if podman("image", "exists", image).returncode and podman("pull", "-q", image).returncode:
            pytest.skip(f"the container engine neither has nor can pull {image}")
    with (Path(tempfile.gettempdir()) / "exitplane-images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second of two processes finds all layers
        for target in TARGETS:
            _build(target, ROOT, "--target", target, "-f", str(ROOT / "deploy/Dockerfile"))
        _build("gluetun", ROOT / "tests", "-f", "-", text=GLUETUN)


def _build(name: str, context: Path, *options: str, text: str = "") -> None:
    done = subprocess.run(
        (
            "podman",
            "build",
            "-q",
            "--network",
            "host",
            "--format",
            "docker",
            *options,
            "-t",
            f"{IMAGES}/{name}",
            str(context),
        ),
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_WITHIN_S,
    )
    assert done.returncode == 0, done.stderr


def podman(*arguments: str, within_s: float = _WITHIN_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ("podman", *arguments), capture_output=True, text=True, check=False, timeout=within_s, stdin=subprocess.DEVNULL
    )


def run_image(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a container of an image until it ends, restricted as in docker-compose.yml; options of podman come before `--`."""
    where = arguments.index("--")
    options, command = arguments[:where], arguments[where + 1 :]
    restricted = ("--no-healthcheck", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp", "--tmpfs", "/run")
    return podman("run", "--rm", *restricted, *options, f"{IMAGES}/{target}", *command)


@dataclass
class Composition:
    """A project of docker-compose.yml. `settings` are what a user would write into .env."""

    net: str
    settings: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"exitplane{uuid4().hex[:8]}")

    def compose(self, *arguments: str, within_s: float = _WITHIN_S) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` of the engine with this project."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")},
            "EXITPLANE_NET": self.net,
            "EXITPLANE_API_PORT": "",  # any free one
            "EXITPLANE_IMAGE": IMAGES,
            "POSTGRES_IMAGE": POSTGRES_IMAGE,
            **self.settings,
        }
        return subprocess.run(
            (str(COMPOSE), "-p", self.name, "-f", str(ROOT / "docker-compose.yml"), *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=within_s,
            env=environment,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )

    def up(self, *options: str) -> None:
        done = self.compose(*options, "up", "-d", "--no-build", within_s=600)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"

    def kill(self, service: str) -> None:
        """End a container at once, as an engine does that runs out of memory; it is not restarted."""
        run_podman("kill", self.container(service))

    def restart(self, service: str) -> None:
        run_podman("restart", "-t", "20", self.container(service))

    def down(self) -> None:
        """Remove everything of the project, whatever state it is in."""
        self.compose("--profile", "gluetun", "down", "-v", "-t", "5", within_s=300)
        podman("pod", "rm", "--force", f"pod_{self.name}")
        for kind in ("container", "volume", "network"):
            for each in self.remains(kind):
                podman(kind, "rm", "--force", each)

    def remains(self, kind: str) -> list[str]:
        """List the names of the project's containers, volumes or networks."""
        shown = {"container": ("ps", "-a", "--format", "{{.Names}}")}.get(kind, (kind, "ls", "--format", "{{.Name}}"))
        return podman(*shown, "--filter", f"label={PROJECT_LABEL}={self.name}").stdout.split()

    def container(self, service: str) -> str:
        return f"{self.name}_{service}_1"

    def exec(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        return podman("exec", self.container(service), *command)

    def inspect(self, service: str, template: str) -> str:
        return podman("inspect", "-f", template, self.container(service)).stdout.strip()

    def is_healthy(self, service: str) -> bool:
        """Run the health check by hand, because podman runs none without systemd."""
        return podman("healthcheck", "run", self.container(service)).returncode == 0

    def logs(self, *services: str) -> str:
        """Return the last lines of services, for the report of a failure."""
        names = [self.container(each) for each in services] or self.remains("container")
        ended = [
            f"--- {each}\n{output.stdout}{output.stderr}"
            for each in names
            if (output := podman("logs", "--tail", "15", each))
        ]
        return "\n".join(ended)

    def fetch(self, country: str = "", *, pool: str = "") -> tuple[int, str]:
        """Request the page of the demo's internet from a country or pool; return status, and source address or an empty text."""
        intent = f"pool-{pool}" if pool else f"country-{country}"
        done = self.exec(
            *("gateway", "curl", "-s", "--max-time", "20", "-w", "\n%{http_code}"),
            *("-x", f"http://demo-{intent}:x@127.0.0.1:8080", "http://203.0.113.2/"),
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), json.loads(body)["source"] if status == "200" else ""

    def wait_for(self, what: str, condition: Callable[[], bool], *services: str) -> None:
        """Wait until a condition holds, for at most _WITHIN_S. A failure shows the logs."""
        deadline = time.monotonic() + _WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {_WITHIN_S} s for {what}\n{self.logs(*services)}"
            time.sleep(0.2)

    @contextmanager
    def traffic(self, country: str) -> Iterator[list[str]]:
        """Request the page again and again during the block; the list has the statuses when the block has ended."""
        script = (
            'while [ ! -e /tmp/stop ]; do curl -s -o /dev/null --max-time 20 -w "%{http_code}\\n" '
            f"-x http://demo-country-{country}:x@127.0.0.1:8080 http://203.0.113.2/; done; rm /tmp/stop"
        )
        statuses: list[str] = []
        with subprocess.Popen(
            ("podman", "exec", self.container("gateway"), "sh", "-c", script), stdout=subprocess.PIPE, text=True
        ) as running:
            try:
                yield statuses
            finally:
                self.exec("gateway", "touch", "/tmp/stop")
                statuses += running.communicate(timeout=60)[0].split()


@contextmanager
def composition(**settings: object) -> Iterator[Composition]:
    """Give a project that nothing was started of. At the end of the block nothing of it is left, whatever happened."""
    assert shutil.which(str(COMPOSE)), "podman-compose is not installed: make ready"
    made = Composition(_unused_network(), {name: str(value) for name, value in settings.items()})
    try:
        yield made
    finally:
        made.down()


def _unused_network() -> str:
    """Return the first three numbers of a network that neither this machine nor an engine's network uses."""
    used = subprocess.run(("ip", "-4", "route"), capture_output=True, text=True, check=True).stdout
    used += "".join(podman("network", "inspect", each).stdout for each in run_podman("network", "ls", "-q").split())
    while (net := f"10.{uuid4().bytes[0] % 100 + 100}.{uuid4().bytes[0]}") in used:
        pass
    return net
