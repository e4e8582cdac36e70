"""The declared metrics, the text made of them, and docs/metrics.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.exit_states import ExitState
from model.repositories import gauges
from model.telemetry import metrics
from model.telemetry.distribution import Distribution
from model.telemetry.exposition import render
from model.telemetry.metrics import METRICS, Sample

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(exitplane_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)
UNBOUNDED = {"proxy", "exit", "user", "path", "address", "client", "node", "target", "token", "trace"}


def read(text):
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_document_lists_all_metrics_and_no_others():
    listed = [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(DOCUMENT.read_text())
    ]
    assert listed == [(each.name, each.kind.value, each.labels) for each in METRICS]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_prometheus_and_labels_are_bounded(metric):
    assert re.fullmatch(r"exitplane_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is metrics.MetricKind.COUNTER)
    assert metric.kind is not metrics.MetricKind.HISTOGRAM or metric.name.endswith(("_seconds", "_bytes"))
    assert UNBOUNDED.isdisjoint(metric.labels)


def test_distribution_counts_values_up_to_each_bound():
    distribution = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        distribution.observe(value)
    assert distribution.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("+Inf", 4.0)]
    assert (distribution.count, distribution.sum) == (4, 12.0)


def test_rendered_samples_are_read_back():
    took = Distribution((0.1, 1.0))
    took.observe(0.5)
    given = [
        Sample(metrics.XDS_ACKS, 7, ("eds",)),
        Sample(metrics.EXITS, 2, ('a"b\\', "us", "healthy")),
        Sample(metrics.API_REQUESTS, took, ("GET", "/api/v1/pools/{pool}", "2xx")),
    ]
    found = read(render(given))
    assert [(each.labels, each.value) for each in found["exitplane_xds_acks"].samples] == [({"type": "eds"}, 7)]
    assert found["exitplane_exits"].samples[0].labels["fleet"] == 'a"b\\'
    buckets = {
        each.labels["le"]: each.value for each in found["exitplane_api_request_seconds"].samples if "le" in each.labels
    }
    assert buckets == {"0.1": 0, "1.0": 1, "+Inf": 1}
    assert "process_resident_memory_bytes" in found


def row(pool="us", state="healthy", observed="verified", exits=1, fleet="demo"):
    return {
        "revision": 9,
        "ingest_age_s": 1.5,
        "gateways": None,
        "certificates": None,
        "fleet": fleet,
        "pool": pool,
        "state": state,
        "observed": observed,
        "exits": exits,
        "open_requests": 3,
        "month_bytes": 10,
    }


def values(samples, metric):
    return {sample.labels: sample.value for sample in samples if sample.metric is metric}


def test_every_state_of_a_pool_has_a_series_even_without_exits():
    found = values(
        [*gauges.samples_of([row(exits=2), row(state="leaking", observed="leaking"), row("de", None)])], metrics.EXITS
    )
    assert {state: found["demo", "us", state] for state in ExitState if found["demo", "us", state]} == {
        "healthy": 2,
        "leaking": 1,
    }
    assert [found["demo", "de", state] for state in ExitState] == [0] * len(ExitState)


def test_pools_beyond_the_bound_share_a_series():
    samples = [*gauges.samples_of([row(f"p{number:04}") for number in range(gauges.POOLS_MAX + 3)])]
    found = values(samples, metrics.EXITS)
    assert len(found) == (gauges.POOLS_MAX + 1) * len(ExitState)
    assert found[gauges.OTHER_POOLS, gauges.OTHER_POOLS, "healthy"] == 3


def test_installation_without_pools_still_has_its_revision():
    samples = [*gauges.samples_of([{**row(None, None), "fleet": None, "ingest_age_s": None}])]
    assert values(samples, metrics.REVISION) == {(): 9}
    assert not values(samples, metrics.EXITS)


def test_gateways_and_certificates_have_series_where_there_are_some():
    fleets = [{"fleet": f"f{number:03}", "heard": 2, "silent": 1} for number in range(gauges.POOLS_MAX + 2)]
    given = row() | {"gateways": fleets, "certificates": {"listener": 1_900_000_000.5}}
    samples = [*gauges.samples_of([given])]
    found = values(samples, metrics.GATEWAYS)
    assert (found["f000", "heard"], found["f000", "silent"]) == (2, 1)
    assert (found[gauges.OTHER_POOLS, "heard"], found[gauges.OTHER_POOLS, "silent"]) == (4, 2)
    assert values(samples, metrics.CERTIFICATE_EXPIRY) == {("listener",): 1_900_000_000.5}
