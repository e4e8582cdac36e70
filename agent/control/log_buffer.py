"""The newest lines of the agent's log and of Envoy's log, for the order `logs`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from agent.config import state_dir as files
from agent.config.state_dir import StateDir
from agent.control.orders import OrderFailed

LINES_MAX: Final = 1_000
_LINE_MAX_CHARS: Final = 1_000
_TAIL_MAX_BYTES: Final = 262_144
_TEXT_MAX_CHARS: Final = 100_000
"""The limit of each log, so that an answer fits into a heartbeat."""

_buffer: deque[str] = deque(maxlen=LINES_MAX)


def keep(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Store each line in the buffer, as a structlog processor."""
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in {"timestamp", "level", "event"})
    _buffer.append(
        f"{event.get('timestamp')} {event.get('level')} {event.get('event')} {fields}".rstrip()[:_LINE_MAX_CHARS]
    )
    return event


async def read(folder: StateDir, detail: Mapping[str, Any]) -> Mapping[str, Any]:
    """Carry out the order `logs`: return `lines` of the agent and of `envoy`, the newest last. Raises OrderFailed."""
    wanted = detail.get("lines", 100)
    if not isinstance(wanted, int) or not 0 < wanted <= LINES_MAX:
        raise OrderFailed(f"{wanted!r} is not a valid number of lines", hint=f"ask for 1 to {LINES_MAX}")
    return {"lines": _truncate([*_buffer][-wanted:]), "envoy": _truncate(_read_tail(folder)[-wanted:])}


def _read_tail(folder: StateDir) -> list[str]:
    try:
        with (folder.path / files.ENVOY_LOG).open("rb") as log_file:
            log_file.seek(0, 2)
            log_file.seek(max(0, log_file.tell() - _TAIL_MAX_BYTES))
            return [line[:_LINE_MAX_CHARS] for line in log_file.read().decode(errors="replace").splitlines()]
    except OSError:
        return []


def _truncate(lines: list[str]) -> list[str]:
    """Return the newest lines that fit into the limit together."""
    remaining, kept = _TEXT_MAX_CHARS, deque[str]()
    for line in reversed(lines):
        remaining -= len(line) + 4
        if remaining < 0:
            break
        kept.appendleft(line)
    return [*kept]
