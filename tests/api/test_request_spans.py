"""Spans and counts of requests: names are templates, and strangers make no spans."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from model.telemetry.span_export import SpanExport

TRACE, PARENT = "ab" * 16, "cd" * 8


class KeptSpans(SpanExporter):
    """Keeps the spans that it is given."""

    def __init__(self):
        self.spans = []

    def export(self, batch):
        self.spans += batch
        return SpanExportResult.SUCCESS


@pytest.fixture
def exported():
    """`exported()` ends the export, and returns the spans by name."""
    kept = KeptSpans()
    export = SpanExport("1", "replica", keeps_failed=True, exporter=kept)

    def end():
        export.shut_down()
        return {span.name: span for span in kept.spans}

    yield end
    export.shut_down()


async def test_write_has_spans_of_request_and_transaction(demo, exported, query):
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    body = {"name": "secret-name", "fleet": "demo", "country": "de"}
    assert (await demo("POST", "/api/v1/pools?dry_run=false", body, headers=headers)).status == 201
    spans = exported()
    request, transaction = spans["POST /api/v1/pools"], spans["transaction"]
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/api/v1/pools",
        "http.response.status_code": 201,
    }
    assert transaction.parent.span_id == request.context.span_id
    assert set(transaction.attributes) == {"exitplane.revision", "exitplane.changes"}
    (stored,) = await query("SELECT DISTINCT traceparent FROM change WHERE traceparent IS NOT NULL")
    assert stored["traceparent"] == f"00-{TRACE}-{transaction.context.span_id:016x}-01"
    assert "secret-name" not in "".join(span.to_json() for span in spans.values())


async def test_spans_and_counts_have_templates_of_routes(demo, exported):
    await demo("GET", "/api/v1/pools/no-such-pool")
    await demo("GET", "/health")
    spans = exported()
    assert set(spans) == {"GET /api/v1/pools/{pool}"}
    assert spans["GET /api/v1/pools/{pool}"].attributes["http.response.status_code"] == 404
    counted = demo.context.request_counters.latency_s
    assert counted["GET", "/api/v1/pools/{pool}", "4xx"].count == counted["GET", "/health", "2xx"].count == 1
    assert demo.context.request_counters.open == 0


async def test_strangers_make_no_spans_whatever_they_send(demo, exported):
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "Authorization": "Bearer no"}
    assert (await demo("GET", "/api/v1/pools", headers=headers)).status == 401
    assert exported() == {}
    assert demo.context.request_counters.latency_s["GET", "none", "4xx"].count == 1
