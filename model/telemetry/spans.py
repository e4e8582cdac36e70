"""Spans of traces (docs/tracing.md), for the code that does the work. Without a tracer each call costs one comparison.

Nothing of OpenTelemetry is imported here: `span_export` sets the tracer, if there is a collector. A span holds ids, counts and
names of operations, never secrets, bodies or targets.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol, TypeAlias

Attributes: TypeAlias = Mapping[str, str | int | float | bool]
NO_ATTRIBUTES: Final[Attributes] = {}


class Span(Protocol):
    """An open span."""

    @property
    def traceparent(self) -> str:
        """Its W3C trace context, which makes other spans its children."""

    @property
    def is_sampled(self) -> bool:
        """True if it will be exported whatever happens."""

    def set(self, **attributes: str | float | bool) -> None:
        """Set attributes. A name's double underscore is a dot."""

    def rename(self, name: str) -> None:
        """Give it a better name."""

    def fail(self, reason: str) -> None:
        """Mark it as failed. A trace with a failed span is kept, even if it is not sampled."""

    def end(self, at_ns: int | None = None) -> None:
        """End it, now or at a time (Unix, nanoseconds)."""


class Tracer(Protocol):
    """Makes spans; see `span_export.SpanMaker`."""

    def start(self, name: str, parent: str | None, attributes: Attributes, *, at_ns: int | None, serves: bool) -> Span:
        """Start a span below `parent` (a W3C trace context), the current one without, or as the root of a trace."""

    @contextmanager
    def current(self, span: Span) -> Iterator[None]:
        """Make a span the current one while the block lasts."""

    def current_ids(self) -> tuple[str, str] | None:
        """Return the ids of the current trace and span in hexadecimal; None without one."""


_tracer: Tracer | None = None


def use_tracer(tracer: Tracer | None) -> None:
    """Make spans with `tracer` in this process from now on; None: make none."""
    global _tracer  # noqa: PLW0603 - one for the process, like its log
    _tracer = tracer


def is_tracing() -> bool:
    return _tracer is not None


def current_ids() -> tuple[str, str] | None:
    """Return the ids of the current trace and span, for the log; None without one."""
    return None if _tracer is None else _tracer.current_ids()


def start_span(
    name: str, parent: str | None = None, attributes: Attributes = NO_ATTRIBUTES, *, at_ns: int | None = None
) -> Span | None:
    """Start a span that the caller ends; None without a tracer."""
    return None if _tracer is None else _tracer.start(name, parent, attributes, at_ns=at_ns, serves=False)


@contextmanager
def span(
    name: str, parent: str | None = None, attributes: Attributes = NO_ATTRIBUTES, *, serves: bool = False
) -> Iterator[Span | None]:
    """Make a span of the block, which is current within it. It yields None without a tracer.

    An error that leaves the block fails the span, and is named by its class, as its text may hold what nobody should keep.
    `serves` marks the server's side of a request.
    """
    tracer = _tracer
    if tracer is None:
        yield None
        return
    started = tracer.start(name, parent, attributes, at_ns=None, serves=serves)
    try:
        with tracer.current(started):
            yield started
    except Exception as error:
        started.fail(type(error).__name__)
        raise
    finally:
        started.end()


def now_ns() -> int:
    """Return the time for spans (Unix, nanoseconds)."""
    return time.time_ns()
