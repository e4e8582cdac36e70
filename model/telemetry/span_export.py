"""The export of spans by OpenTelemetry's SDK, set by its standard variables (docs/tracing.md). Imported only with a collector.

A collector that is slow or away costs spans and nothing else: they wait in a bounded queue of a thread, and are then dropped
and counted.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes as OtelAttributes

from model.telemetry import metrics
from model.telemetry.metrics import Sample
from model.telemetry.spans import Attributes, Span, use_tracer

SHUTDOWN_S: Final = 3.0
"""Time for which a replica that stops waits for the collector to take the last spans."""
QUEUE_MAX: Final = 2_048
"""Spans that wait for the collector, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise. More are dropped."""
BATCH_MAX: Final = 512
KEPT_TRACES: Final = 256
"""Unsampled traces whose spans are kept for a while, in case one of them fails."""
KEPT_SPANS: Final = 64
"""Spans of each of them."""


class SpanExport:
    """The exporter of this process and its counts."""

    def __init__(
        self, version: str, instance: str, *, keeps_failed: bool, exporter: SpanExporter | None = None
    ) -> None:
        resource = Resource.create({"service.version": version, "service.instance.id": instance})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):  # the SDK's default
            resource = resource.merge(Resource({"service.name": "exitplane"}))
        self._exporter = CountingExporter(exporter or OTLPSpanExporter())
        queue_max = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or QUEUE_MAX)
        batches = BatchSpanProcessor(self._exporter, queue_max, max_export_batch_size=min(BATCH_MAX, queue_max))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        if keeps_failed:
            self._provider.sampler = RecordingSampler(self._provider.sampler)
        self._selection = SpanSelection(batches, self._exporter, queue_max)
        self._provider.add_span_processor(self._selection)
        use_tracer(SpanMaker(self._provider.get_tracer("exitplane", version)))

    def samples(self) -> Iterator[Sample]:
        """Read the counts of spans."""
        yield Sample(metrics.SPANS, self._exporter.exported, ("exported",))
        yield Sample(metrics.SPANS, self._exporter.failed, ("failed",))
        yield Sample(metrics.SPANS, self._selection.dropped, ("dropped",))

    def shut_down(self) -> None:
        """Stop making spans, and export those that wait, for at most SHUTDOWN_S."""
        use_tracer(None)
        stopping = threading.Thread(target=self._provider.shutdown, name="spans.shutdown", daemon=True)
        stopping.start()
        stopping.join(SHUTDOWN_S)
        if stopping.is_alive():
            self._exporter.shutdown()  # ends the attempts of the export that is under way


class CountingExporter(SpanExporter):
    """An exporter that counts. `export` runs in the thread of the batches."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.taken = self.exported = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                self.exported += len(spans)
            else:
                self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class SpanSelection(SpanProcessor):
    """Passes spans to the batches: the sampled ones, and all spans of a trace in which one failed.

    Spans of an unsampled trace wait here, within KEPT_TRACES and KEPT_SPANS, until one fails.
    """

    def __init__(self, batches: BatchSpanProcessor, exporter: CountingExporter, queue_max: int) -> None:
        self._batches = batches
        self._exporter = exporter
        self._queue_max = queue_max
        self._waiting: OrderedDict[int, list[ReadableSpan]] = OrderedDict()
        self._failed: OrderedDict[int, None] = OrderedDict()
        self._passed = 0
        self.dropped = 0

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Nothing is done before the end."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None:
            return
        if span.context.trace_flags.sampled:
            self._pass(span)
            return
        trace_id = span.context.trace_id
        if span.status.status_code is StatusCode.ERROR:
            _remember(self._failed, trace_id)
        if trace_id in self._failed:
            for each in (*self._waiting.pop(trace_id, ()), span):
                self._pass(each)
            return
        waiting = self._waiting.setdefault(trace_id, [])
        if len(waiting) < KEPT_SPANS:
            waiting.append(span)
        if len(self._waiting) > KEPT_TRACES:
            self._waiting.popitem(last=False)

    def _pass(self, span: ReadableSpan) -> None:
        """Queue a span. The SDK's queue drops its oldest span when it is full; a full one takes no more here."""
        if self._passed - self._exporter.taken >= self._queue_max:
            self.dropped += 1
            return
        self._passed += 1
        self._batches.on_end(_as_sampled(span))

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._batches.force_flush(timeout_millis))


class RecordingSampler(Sampler):
    """A sampler that records what another one drops, so that `SpanSelection` can export it after a failure."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: OtelAttributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        result = self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is Decision.DROP:
            return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)
        return result

    def get_description(self) -> str:
        return f"Recording{{{self._sampler.get_description()}}}"


class SpanMaker:
    """The tracer of `spans`, on OpenTelemetry's."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start(self, name: str, parent: str | None, attributes: Attributes, *, at_ns: int | None, serves: bool) -> Span:
        context = None if parent is None else _context_of(parent)
        kind = SpanKind.SERVER if serves else SpanKind.INTERNAL
        return _MadeSpan(self._tracer.start_span(name, context, kind, dict(attributes), start_time=at_ns))

    @contextmanager
    def current(self, span: Span) -> Iterator[None]:
        assert isinstance(span, _MadeSpan)
        with trace.use_span(span.otel, record_exception=False, set_status_on_exception=False):
            yield

    def current_ids(self) -> tuple[str, str] | None:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


class _MadeSpan:
    def __init__(self, otel: trace.Span) -> None:
        self.otel = otel

    @property
    def traceparent(self) -> str:
        context = self.otel.get_span_context()
        ids = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
        return f"00-{ids[0]}-{ids[1]}-{int(context.trace_flags):02x}"

    @property
    def is_sampled(self) -> bool:
        return self.otel.get_span_context().trace_flags.sampled

    def set(self, **attributes: str | float | bool) -> None:
        self.otel.set_attributes({name.replace("__", "."): value for name, value in attributes.items()})

    def rename(self, name: str) -> None:
        self.otel.update_name(name)

    def fail(self, reason: str) -> None:
        self.otel.set_status(Status(StatusCode.ERROR, reason))

    def end(self, at_ns: int | None = None) -> None:
        self.otel.end(at_ns)


def _context_of(traceparent: str) -> Context:
    """Parse a W3C trace context that was checked or made here."""
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())


def _as_sampled(span: ReadableSpan) -> ReadableSpan:
    """Return a span that the batches take: those ignore unsampled ones."""
    context = span.context
    if context is None or context.trace_flags.sampled:
        return span
    sampled = SpanContext(
        context.trace_id, context.span_id, context.is_remote, TraceFlags(TraceFlags.SAMPLED), context.trace_state
    )
    return ReadableSpan(
        name=span.name,
        context=sampled,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _remember(traces: OrderedDict[int, None], trace_id: int) -> None:
    traces[trace_id] = None
    if len(traces) > KEPT_TRACES:
        traces.popitem(last=False)
