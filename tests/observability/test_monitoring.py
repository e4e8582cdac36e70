"""Prometheus and Alertmanager beside a running system: targets, every metric that rules and dashboards name, and an alert."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from demo.lab import LabSettings
from demo.setup import open_lab
from tests.observability.monitoring import BOUND_S, monitored
from tests.observability.promql import dashboard_expressions, metrics_of, rule_expressions
from tests.ports import reserve

pytestmark = [pytest.mark.envoy, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(600)]
EMPTY_WHILE_WELL = {"exitplane-fleet: Alerts"}
"""Panels without a line while no alert fires."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A control plane, a gateway and an exit, all with metrics and a collector that is away, and what watches them."""
    with ExitStack() as stack:
        held = [stack.enter_context(reserve()) for _ in range(3)]
        plane, gateway, exit_ = (f"127.0.0.1:{each.getsockname()[1]}" for each in held)
        held[0].close()  # the control plane, unlike Envoy, does not share a port
        settings = LabSettings(
            exits=("us",),
            tunnels=False,
            gateway_port=0,
            api_port=0,
            xds_port=0,
            heartbeat_interval_s=1,
            silence_timeout_s=BOUND_S,
            environment={"EXITPLANE_METRICS_LISTEN": plane, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
            gateway_arguments=("--metrics-listen", gateway),
            exit_arguments=("--metrics-listen", exit_),
        )
        lab = stack.enter_context(open_lab(settings))
        lab.start()
        key = lab.api("POST", "/api-keys", {"name": "prometheus", "role": "viewer", "scopes": ["discovery:read"]})
        key_file = lab.state_dir / "prometheus.key"
        key_file.write_text(key["key"])
        folder = tmp_path_factory.mktemp("monitoring")
        yield lab, stack.enter_context(monitored(folder, lab.api_url, key_file))


def test_alert_fires_reaches_alertmanager_and_ends(scene):
    """One scene, in the order of a night: all is well, the exit ends, somebody is called, the exit is back."""
    lab, watch = scene
    expected = dict.fromkeys(("replica", "gateway", "exit"), "up")
    watch.wait_for("all targets to be up", lambda: watch.targets() == expected)
    for tunnel in (True, False):
        assert lab.request("us", tunnel=tunnel).status == 200

    def empty_panels():
        found = {place for place, expression in dashboard_expressions("10s") if not watch.query(expression)}
        return found - EMPTY_WHILE_WELL

    watch.wait_for("all panels to have lines", lambda: not empty_panels())
    watch.wait_for("no alert", lambda: not watch.alerts())

    lab.exits[0].stop()
    watch.wait_for("the alert to fire", lambda: watch.alerts().get("ExitplanePoolWithoutExit") == "firing")
    received = watch.wait_for("Alertmanager", lambda: watch.received_alerts().get("ExitplanePoolWithoutExit"))
    assert received["labels"] == {
        "alertname": "ExitplanePoolWithoutExit",
        "severity": "critical",
        "fleet": "demo",
        "pool": "us",
    }
    assert received["annotations"]["runbook_url"] == "docs/runbook.md#exitplanepoolwithoutexit"

    # ALERTS has a series now, too
    named = {name for _, expression in dashboard_expressions() for name in metrics_of(expression)}
    named |= {name for expression in rule_expressions().values() for name in metrics_of(expression)}
    assert len(named) > 60
    missing = lambda: [name for name in sorted(named) if not watch.query(f'{{__name__="{name}"}}')]  # noqa: E731
    assert not missing()

    lab.exits[0].start()
    watch.wait_for("the alert to end", lambda: "ExitplanePoolWithoutExit" not in watch.alerts())
    watch.wait_for("Alertmanager", lambda: "ExitplanePoolWithoutExit" not in watch.received_alerts())
    watch.wait_for("all targets to be up again", lambda: watch.targets() == expected)
