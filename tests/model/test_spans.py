"""Spans: their parents, which ones are exported, and what a collector that is away costs."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from model.telemetry import spans
from model.telemetry.collector import BadCollector, collector_of
from model.telemetry.span_export import SpanExport


class ListExporter(SpanExporter):
    """Keeps what it is given. While `blocked` is not set, it takes nothing."""

    def __init__(self):
        self.spans = []
        self.free = threading.Event()
        self.free.set()
        self.result = SpanExportResult.SUCCESS

    def export(self, batch):
        self.free.wait(60)
        self.spans += batch
        return self.result

    @property
    def names(self):
        return sorted(span.name for span in self.spans)


@pytest.fixture
def exporter():
    return ListExporter()


@pytest.fixture
def tracing(exporter, monkeypatch):
    """`tracing(**environment)` makes spans until the test ends."""
    opened = []

    def start(*, keeps_failed=True, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        opened.append(SpanExport("1", "replica", keeps_failed=keeps_failed, exporter=exporter))
        return opened[0]

    yield start
    exporter.free.set()
    for each in opened:
        each.shut_down()


def counts(export):
    return {sample.labels[0]: sample.value for sample in export.samples()}


def test_without_tracer_a_span_is_none_and_costs_no_import():
    with spans.span("work") as span:
        assert span is None
    assert spans.start_span("work") is None
    assert spans.current_ids() is None


def test_spans_of_one_write_form_one_trace(tracing, exporter):
    export = tracing(OTEL_SERVICE_NAME="plane")
    with spans.span("GET", "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", serves=True) as request:
        with spans.span("transaction") as transaction:
            assert spans.current_ids() == tuple(transaction.traceparent.split("-")[1:3])
        answer = spans.start_span("xds.ack", transaction.traceparent)
        answer.end()
    export.shut_down()
    by_name = {span.name: span for span in exporter.spans}
    assert {f"{span.context.trace_id:032x}" for span in exporter.spans} == {"ab" * 16}
    assert f"{by_name['GET'].parent.span_id:016x}" == "cd" * 8
    assert by_name["transaction"].parent.span_id == by_name["GET"].context.span_id
    assert by_name["xds.ack"].parent.span_id == by_name["transaction"].context.span_id
    assert by_name["GET"].resource.attributes["service.name"] == "plane"
    assert request.is_sampled


def test_service_has_our_name_unless_the_environment_names_it(tracing, exporter, monkeypatch):
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    export = tracing()
    spans.start_span("work").end()
    export.shut_down()
    assert exporter.spans[0].resource.attributes["service.name"] == "exitplane"


def test_error_fails_span_by_class_and_not_by_text(tracing, exporter):
    export = tracing()
    with pytest.raises(ValueError), spans.span("work"):
        raise ValueError("secret")
    export.shut_down()
    (span,) = exporter.spans
    assert (span.status.description, span.events, "secret" in span.to_json()) == ("ValueError", (), False)


@pytest.mark.parametrize(("keeps_failed", "expected"), [(True, ["after", "before", "failed"]), (False, [])])
def test_failed_trace_is_exported_whatever_the_sampler_says(tracing, exporter, keeps_failed, expected):
    export = tracing(keeps_failed=keeps_failed, OTEL_TRACES_SAMPLER="always_off")
    with spans.span("lucky"):
        pass
    root = spans.start_span("after")
    spans.start_span("before", root.traceparent).end()
    failed = spans.start_span("failed", root.traceparent)
    failed.fail("rejected")
    failed.end()
    root.end()
    export.shut_down()
    assert exporter.names == expected


def test_share_of_traces_is_sampled(tracing, exporter):
    export = tracing(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
    for last in ("1" * 16, "f" * 16):
        spans.start_span(last[0], f"00-{'a' * 16}{last}-{'22' * 8}-01").end()
    export.shut_down()
    assert exporter.names == ["1"]


def test_slow_collector_costs_dropped_spans_that_are_counted(tracing, exporter):
    export = tracing(OTEL_BSP_MAX_QUEUE_SIZE="4", OTEL_BSP_SCHEDULE_DELAY="1")
    exporter.free.clear()
    for _ in range(100):
        spans.start_span("work").end()
    assert counts(export)["dropped"] >= 100 - 2 * 4
    exporter.free.set()
    export.shut_down()
    found = counts(export)
    assert found["exported"] == len(exporter.spans)
    assert sum(found.values()) == 100


def test_failed_export_is_counted(tracing, exporter):
    export = tracing()
    exporter.result = SpanExportResult.FAILURE
    spans.start_span("work").end()
    export.shut_down()
    assert counts(export) == {"exported": 0, "failed": 1, "dropped": 0}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "http://c:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_TRACES_EXPORTER": "none"}, None),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t:2"},
            "https://t:2",
        ),
    ],
)
def test_collector_is_set_by_standard_variables(environment, expected):
    assert collector_of(environment) == expected


@pytest.mark.parametrize(
    "more", [{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}]
)
def test_unusable_collector_is_one_error_with_hint(more):
    with pytest.raises(BadCollector) as caught:
        collector_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", **more})
    assert next(iter(more)) in caught.value.message
    assert caught.value.hint
