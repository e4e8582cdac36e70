"""The newest lines of an agent's log and of its Envoy's, for operators who ask for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from agent.config import state_dir as files
from agent.config.state_dir import StateDir
from agent.control.orders import OrderFailed

LINES_MAX: Final = 1_000
_LINE_MAX: Final = 1_000
_TAIL_BYTES: Final = 262_144
_TEXT_MAX: Final = 100_000
"""Of each log, in characters: an answer has to fit into a heartbeat."""

_kept: deque[str] = deque(maxlen=LINES_MAX)


def keep(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that keeps each line."""
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in {"timestamp", "level", "event"})
    _kept.append(f"{event.get('timestamp')} {event.get('level')} {event.get('event')} {fields}".rstrip()[:_LINE_MAX])
    return event


async def tell(folder: StateDir, detail: Mapping[str, Any]) -> Mapping[str, Any]:
    """The outcome of the order `logs`: `lines` of the agent and `envoy` of its Envoy, the newest last."""
    wanted = detail.get("lines", 100)
    if not isinstance(wanted, int) or not 0 < wanted <= LINES_MAX:
        raise OrderFailed(f"{wanted!r} is no number of lines", hint=f"ask for 1 to {LINES_MAX}")
    return {"lines": _fitting([*_kept][-wanted:]), "envoy": _fitting(_tail(folder)[-wanted:])}


def _tail(folder: StateDir) -> list[str]:
    try:
        with (folder.path / files.ENVOY_LOG).open("rb") as log_file:
            log_file.seek(0, 2)
            log_file.seek(max(0, log_file.tell() - _TAIL_BYTES))
            return [line[:_LINE_MAX] for line in log_file.read().decode(errors="replace").splitlines()]
    except OSError:
        return []


def _fitting(lines: list[str]) -> list[str]:
    """The newest of them that are not too much together."""
    left, kept = _TEXT_MAX, deque[str]()
    for line in reversed(lines):
        left -= len(line) + 4
        if left < 0:
            break
        kept.appendleft(line)
    return [*kept]
