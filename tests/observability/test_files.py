"""The files of deploy/observability: rules, dashboards and configuration, checked by the tools that read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import types
import typing
from enum import Enum
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.observability.promql import DASHBOARDS, OBSERVABILITY, ROOT, RULES, alerts, dashboard_expressions, metrics_of

TESTS = Path(__file__).parent / "alerts.test.yaml"
RUNBOOK = ROOT / "docs" / "runbook.md"
PROMETHEUS, JAEGER = "exitplane-prometheus", "exitplane-jaeger"
GRID_WIDTH = 24

pytestmark = pytest.mark.slow


def run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: make ready, as root on Debian")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


# -- rules


def test_alerts_fire_and_do_not_fire_as_their_scenes_say():
    run("promtool", "test", "rules", str(TESTS))


def test_scenes_have_each_alert_firing_and_not_firing():
    text = TESTS.read_text()
    scenes = [
        (case.get("expr", "") + case.get("alertname", ""), bool(case.get("exp_samples") or case.get("exp_alerts")))
        for scene in yaml.safe_load(text)["tests"]
        for case in (*scene.get("promql_expr_test", ()), *scene.get("alert_rule_test", ()))
    ]
    for name in alerts():
        assert any(name in expression and fires for expression, fires in scenes), name


@pytest.mark.parametrize(("name", "rule"), alerts().items())
def test_alert_says_what_to_do(name, rule):
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert f"\n## {name}\n" in RUNBOOK.read_text()


def test_runbook_has_no_alert_that_is_gone():
    assert re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE) == list(alerts())


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (pool) (rate(a_total{x="b_total{", pool=~"c"}[5m])) / on (pool) group_left (name) b:c:d > 0.1', {"a_total", "b:c:d"}),
        ("time() - max(up) > 60 and absent(x offset 5m) or vector(0)", {"up", "x"}),
        ("histogram_quantile(0.99, sum by (le) (rate(d_bucket[$__rate_interval])))", {"d_bucket"}),
        ("(a == bool 0) unless ignoring (b) c", {"a", "c"}),
    ],
)  # fmt: skip
def test_names_of_metrics_are_found_in_expressions(expression, names):
    assert metrics_of(expression) == names


# -- dashboards


def test_dashboards_are_what_their_source_makes():
    run(sys.executable, "-m", "deploy.observability.dashboards", "--check")  # make dashboards


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_fits_the_schema_of_grafana(path):
    """The classes of Grafana's SDK are made from its schemas: they drop fields that these do not have."""
    register_default_plugins()
    written = json.loads(path.read_text())
    read = Dashboard.from_json(written)
    assert json.loads(json.dumps(read.to_json(), cls=JSONEncoder)) == written
    assert not [*wrong_types(read, path.stem)]


def wrong_types(value, place):
    """Yield the fields, also of nested objects, whose values have another type than their declaration."""
    if isinstance(value, list | dict):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from wrong_types(each, f"{place}[{key}]")
    elif type(value).__module__.startswith("grafana_foundation_sdk.models"):
        if isinstance(value, Enum):
            return
        for name, declared in typing.get_type_hints(type(value)).items():
            each = getattr(value, name)
            if not fits(each, declared):
                yield f"{place}.{name}: {each!r} is not {declared}"
            yield from wrong_types(each, f"{place}.{name}")


def fits(value, declared) -> bool:
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if declared in {object, typing.Any}:
        return True
    if origin in {typing.Union, types.UnionType}:
        return any(fits(value, each) for each in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, arguments[1]) for each in value.values())
    if issubclass(declared, Enum):  # `from_json` leaves the values as they are
        return isinstance(value, declared) or value in {each.value for each in declared}
    return isinstance(value, (int, float) if declared is float else declared) and not (
        declared in {int, float} and isinstance(value, bool)
    )


def test_schema_check_finds_unknown_fields_and_wrong_types():
    register_default_plugins()
    written = json.loads(DASHBOARDS[0].read_text())
    assert "tilte" not in Dashboard.from_json(written | {"tilte": "x"}).to_json()
    assert [*wrong_types(Dashboard.from_json(written | {"refresh": 5, "graphTooltip": 9}), "board")] == [
        "board.graph_tooltip: 9 is not typing.Optional[grafana_foundation_sdk.models.dashboard.DashboardCursorSync]",
        "board.refresh: 5 is not typing.Optional[str]",
    ]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_units_sources_and_places_of_their_own(path):
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < GRID_WIDTH
    for panel in panels:
        if panel["type"] in {"timeseries", "stat"}:
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {PROMETHEUS}


def test_configuration_is_accepted_by_what_reads_it():
    run("promtool", "check", "config", "--syntax-only", str(OBSERVABILITY / "prometheus" / "prometheus.yml"))
    run("amtool", "check-config", str(OBSERVABILITY / "alertmanager" / "alertmanager.yml"))


def test_sources_of_data_have_the_uids_of_dashboards():
    written = yaml.safe_load((OBSERVABILITY / "grafana/provisioning/datasources/exitplane.yaml").read_text())
    assert [each["uid"] for each in written["datasources"]] == [PROMETHEUS, JAEGER]


def test_alerts_that_silence_others_exist():
    written = (OBSERVABILITY / "alertmanager" / "alertmanager.yml").read_text()
    named = set(re.findall(r"Exitplane[A-Z]\w+", written))
    assert len(named) > 8
    assert named <= set(alerts())


def test_expressions_and_rules_are_valid_promql(tmp_path):
    """Expressions of dashboards are checked as recording rules."""
    rules = [
        {"record": "expression", "labels": {"place": place, "number": str(number)}, "expr": expression}
        for number, (place, expression) in enumerate(dashboard_expressions())
    ]
    assert len(rules) > 80
    written = tmp_path / "rules.yaml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    run("promtool", "check", "rules", str(RULES), str(written))
