"""Names of metrics in PromQL, and the expressions of dashboards as Prometheus gets them from Grafana."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"
RULES = OBSERVABILITY / "prometheus" / "rules" / "exitplane.yaml"
DASHBOARDS = sorted((OBSERVABILITY / "grafana" / "dashboards").glob("*.json"))
_NO_NAMES = re.compile(
    r'"[^"]*"'  # strings
    r"|\{[^{}]*\}"  # matchers
    r"|\[[^\]]*\]"  # durations
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)"  # labels
)
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?![\w:]|\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"}
_VARIABLE = re.compile(r"label_values\(\s*(.*?)\s*,\s*\w+\s*\)$")


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics of an expression: the identifiers that are no function, keyword or label."""
    rest = expression
    for _ in range(2):  # strings first, for they may have braces
        rest = _NO_NAMES.sub(" ", rest)
    return {name for name in _NAME.findall(rest) if name not in _WORDS and name.lower() not in {"inf", "nan"}}


def alerts() -> Mapping[str, Mapping[str, object]]:
    return {rule["alert"]: rule for rule in _rules() if "alert" in rule}


def rule_expressions() -> Mapping[str, str]:
    """Return the expression of each rule, by its name."""
    return {rule.get("alert") or rule["record"]: rule["expr"] for rule in _rules()}


@cache
def _rules() -> Sequence[Mapping[str, str]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard_expressions(range_: str = "5m") -> Iterator[tuple[str, str]]:
    """Yield the place and the expression of each query of the dashboards, with all values of variables."""
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                expression = re.sub(r"\$\w+", ".*", target["expr"].replace("$__rate_interval", range_))
                yield f"{path.stem}: {panel['title']}", expression
        for variable in board["templating"]["list"]:
            found = _VARIABLE.match(variable["query"])
            assert found, variable["query"]
            yield f"{path.stem}: ${variable['name']}", re.sub(r"\$\w+", ".*", found[1])
