"""Commands of the Telegram bot: which updates it answers, and what. Pure."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from model.exit_states import SERVING

COMMANDS: Final[Mapping[str, str]] = {
    "status": "pools with the states of their exits",
    "ping": "version and revision of the control plane",
    "help": "this list",
}
ANSWER_WITHIN: Final = timedelta(minutes=5)
"""Commands that are older are not answered: they waited while the control plane was away."""
ANSWERS_MAX: Final = 10
ANSWERS_OVER: Final = timedelta(minutes=1)
"""A chat gets so many answers within this time; further commands are dropped."""
TEXT_CHARS_MAX: Final = 4_000
"""Telegram takes 4,096 characters."""
_POOLS_MAX: Final = 50
_COMMAND: Final = re.compile(r"/([A-Za-z0-9_]{1,32})(?:@([A-Za-z0-9_]{1,64}))?(?=\s|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Command:
    """A command of an allowed chat. `name` is in lower case."""

    chat: int
    name: str


def command_of(update: Any, bot: str, chats: Collection[int], now: datetime) -> Command | None:
    """Read the command of an update (https://core.telegram.org/bots/api#update); None: it is not to be answered.

    Other chats, other bots' commands, texts that are no commands, and anything malformed get no answer.
    """
    message = update.get("message") if isinstance(update, dict) else None
    chat = message.get("chat") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(chat, dict):
        return None
    chat_id, text, date = chat.get("id"), message.get("text"), message.get("date")
    if type(chat_id) is not int or chat_id not in chats or not isinstance(text, str) or type(date) is not int:
        return None
    found = _COMMAND.match(text)
    if found is None or (found[2] and found[2].lower() != bot.lower()):
        return None
    if date < (now - ANSWER_WITHIN).timestamp():
        return None
    return Command(chat_id, found[1].lower())


@dataclass(slots=True)
class AnswerLimit:
    """Bounds the answers of each chat. Chats are those of the setting, so the memory is bounded, too."""

    _answered: dict[int, deque[datetime]] = field(default_factory=dict)

    def admit(self, chat: int, now: datetime) -> bool:
        """Tell whether a chat gets another answer, and count it."""
        times = self._answered.setdefault(chat, deque())
        while times and now - times[0] >= ANSWERS_OVER:
            times.popleft()
        if len(times) >= ANSWERS_MAX:
            return False
        times.append(now)
        return True


def help_text() -> str:
    return "\n".join(f"/{name} - {meaning}" for name, meaning in COMMANDS.items())


def unknown_text() -> str:
    return f"There is no such command.\n{help_text()}"


def status_text(rows: Sequence[Mapping[str, Any]], open_messages: int) -> str:
    """Write the state of pools. `rows` have fleet, pool, state (None: the pool has no exit) and the number of exits."""
    pools: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        count = pools.setdefault((row["fleet"], row["pool"]), Counter())
        if row["state"] is not None:
            count[row["state"]] += row["exits"]
    lines = [_pool_line(fleet, pool, count) for (fleet, pool), count in pools.items()]
    if not lines:
        lines = ["There is no pool."]
    if len(lines) > _POOLS_MAX:
        lines[_POOLS_MAX:] = [f"and {len(lines) - _POOLS_MAX} more pools"]
    if open_messages:
        lines.append(f"{open_messages} messages wait for their delivery.")
    return "\n".join(lines)[:TEXT_CHARS_MAX]


def _pool_line(fleet: str, pool: str, count: Counter[str]) -> str:
    serving = sum(count[state] for state in SERVING)
    others = ", ".join(
        f"{number} {state}" for state, number in sorted(count.items()) if state not in SERVING and number
    )
    return f"{fleet}/{pool}: {serving} of {count.total()} exits serve{f' ({others})' if others else ''}"
