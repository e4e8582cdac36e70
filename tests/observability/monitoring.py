"""Debian's Prometheus and Alertmanager with the files of deploy/observability, in which times are short and addresses those of a test."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.promql import OBSERVABILITY, RULES
from tests.ports import reserved_port

BOUND_S = 120.0
_HOLD = re.compile(r"(?m)^(\s+for: )\d+m$")


@dataclass
class Monitoring:
    """A running Prometheus and its Alertmanager."""

    prometheus: str
    alertmanager: str
    processes: list[subprocess.Popen] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now; return its samples."""
        return self.ask("query", query=expression)["result"]

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of a reply of Prometheus's API."""
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        return _fetch(url)["data"]

    def targets(self) -> dict[str, str]:
        """Return the health of each target (up, down, unknown) by component."""
        return {each["labels"]["component"]: each["health"] for each in self.ask("targets")["activeTargets"]}

    def alerts(self) -> dict[str, str]:
        """Return the states of alerts (pending, firing) by name."""
        return {each["labels"]["alertname"]: each["state"] for each in self.ask("alerts")["alerts"]}

    def received_alerts(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that Alertmanager has and that have not ended, by name."""
        return {each["labels"]["alertname"]: each for each in _fetch(f"{self.alertmanager}/api/v2/alerts")}

    def wait_for(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait until a condition holds, for at most BOUND_S; return its value."""
        deadline = time.monotonic() + BOUND_S
        while not (found := self._try(condition)):
            assert time.monotonic() < deadline, f"waited {BOUND_S:g} s for {what}; {self._report()}"
            time.sleep(0.1)
        return found

    def _try(self, condition: Callable[[], Any]) -> Any:
        assert all(each.poll() is None for each in self.processes), self._report()
        try:
            return condition()
        except urllib.error.URLError:  # it is starting
            return None

    def _report(self) -> str:
        return "\n".join(path.read_text()[-3_000:] for path in self.logs)


def _fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


@contextmanager
def monitored(folder: Path, api_url: str, api_key_file: Path) -> Iterator[Monitoring]:
    """Run both with the committed files, in a folder of their own, until the block ends."""
    programs = ("prometheus", "prometheus-alertmanager")
    if missing := [each for each in programs if shutil.which(each) is None]:
        pytest.skip(f"{', '.join(missing)} not installed: make ready, as root on Debian")
    with ExitStack() as stack:
        prometheus, alertmanager = (f"127.0.0.1:{stack.enter_context(reserved_port())}" for _ in range(2))
        made = Monitoring(f"http://{prometheus}", f"http://{alertmanager}")
        write_prometheus(folder, api_url, api_key_file, alertmanager)
        write_alertmanager(folder)
        for name, command in (
            ("alertmanager", (f"--web.listen-address={alertmanager}", "--cluster.listen-address=")),
            ("prometheus", (f"--web.listen-address={prometheus}", "--log.level=warn")),
        ):
            log = folder / f"{name}.log"
            program = programs[name == "alertmanager"]
            options = (
                f"--config.file={folder / name}.yml",
                f"--storage{'.tsdb' if name == 'prometheus' else ''}.path={folder / name}-data",
            )
            output = stack.enter_context(log.open("w"))
            made.logs.append(log)
            made.processes.append(subprocess.Popen((program, *options, *command), stdout=output, stderr=output))
        try:
            yield made
        finally:
            for process in made.processes:
                process.terminate()
            for process in made.processes:
                process.wait(30)


def write_prometheus(folder: Path, api_url: str, api_key_file: Path, alertmanager: str) -> None:
    """Write the committed configuration with rules whose waits (`for`) are a second instead of minutes."""
    written = yaml.safe_load((OBSERVABILITY / "prometheus" / "prometheus.yml").read_text())
    written["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    written["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [alertmanager]}]
    (job,) = written["scrape_configs"]
    (discovery,) = job["http_sd_configs"]
    discovery |= {"refresh_interval": "1s", "url": api_url + urllib.parse.urlsplit(discovery["url"]).path}
    discovery["authorization"]["credentials_file"] = str(api_key_file)
    del discovery["tls_config"]  # the lab's API has no TLS
    (folder / "prometheus.yml").write_text(yaml.safe_dump(written))
    (folder / "rules").mkdir()
    (folder / "rules" / RULES.name).write_text(_HOLD.sub(r"\g<1>1s", RULES.read_text()))


def write_alertmanager(folder: Path) -> None:
    written = yaml.safe_load((OBSERVABILITY / "alertmanager" / "alertmanager.yml").read_text())
    written["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(written))
