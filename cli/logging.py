"""Configuration of logs: events on standard output, formatted on a terminal and JSON lines otherwise.

Levels are set by module, at the start and again by SIGHUP (docs/settings.md#logs).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from model.log_levels import LogLevels
from model.telemetry.spans import current_ids

_LIBRARIES: Final = ("structlog", __name__)


def configure_logging(*more: Processor, levels: LogLevels | None = None) -> None:
    """Configure structlog and the logs of libraries. `more` processors get each event before it is written.

    `levels` may change later; without it, everything from `info` on is written, and of libraries warnings.
    """
    levels = levels or LogLevels()
    renderer: Processor = (
        structlog.dev.ConsoleRenderer() if sys.stdout.isatty() else structlog.processors.JSONRenderer()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        structlog.processors.format_exc_info,
        *more,
    ]
    structlog.configure(
        processors=[_LevelFilter(levels), *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _LevelFilter:
    """Drops events below the level of the module that logs, and adds both to the others."""

    def __init__(self, levels: LogLevels) -> None:
        self._levels = levels

    def __call__(self, _: Any, method: str, event: EventDict) -> Mapping[str, Any]:
        level = "error" if method == "exception" else method
        module = _calling_module()
        if not self._levels.allows(module, level):
            raise structlog.DropEvent
        event["level"], event["logger"] = level, module
        return event


def _calling_module() -> str:
    """Return the name of the module that logs: that of the nearest frame outside structlog and this module."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented for this use
    while frame is not None:
        name: str = frame.f_globals.get("__name__", "")
        if not name.startswith(_LIBRARIES):
            return name
        frame = frame.f_back
    return ""


def _add_trace(_: Any, __: str, event: EventDict) -> Mapping[str, Any]:
    ids = current_ids()
    if ids is not None:
        event["trace_id"], event["span_id"] = ids
    return event
