"""A collector of spans: a gRPC server that parses what OpenTelemetry's exporter sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass(frozen=True)
class ReceivedSpan:
    """A span with the attributes of its sender."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    attributes: dict[str, Any]
    sender: dict[str, Any]


@dataclass
class OtlpSink:
    """The received spans, in the order of their arrival."""

    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    raw: bytes = b""

    async def _export(self, request: bytes, _: Any) -> bytes:
        return self.take(request)

    def take(self, request: bytes) -> bytes:
        """Take a request with spans, and return the answer."""
        self.raw += request
        for group in ExportTraceServiceRequest.FromString(request).resource_spans:
            sender = _attributes(group.resource.attributes)
            for scope in group.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    failed = span.status.code == span.status.STATUS_CODE_ERROR
                    self.spans.append(ReceivedSpan(span.name, *ids, failed, _attributes(span.attributes), sender))
        return ExportTraceServiceResponse().SerializeToString()

    def named(self, name: str, trace_id: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if (span.name, span.trace_id) == (name, trace_id)]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def open_sink() -> AsyncIterator[OtlpSink]:
    """Run a collector while the block lasts."""
    sink, server = OtlpSink(), grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(sink._export)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Export": handler})])
    sink.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield sink
    finally:
        await server.stop(0)


@contextmanager
def threaded_sink() -> Iterator[OtlpSink]:
    """Run a collector in threads while the block lasts, for tests without an event loop."""
    sink, server = OtlpSink(), grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: sink.take(request))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Export": handler})])
    sink.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield sink
    finally:
        server.stop(None).wait()
