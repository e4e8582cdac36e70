"""Levels of the log by module, which may change while the process runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
DEFAULT: Final = "info"


class LogLevels:
    """The lowest level that each module logs. A module without one has its package's."""

    def __init__(self, text: str = DEFAULT) -> None:
        self._levels: Mapping[str, int] = {}
        self.change(text)

    def change(self, text: str) -> None:
        """Set all levels from now on. Raises ValueError and changes nothing; see `parse_levels`."""
        self._levels = parse_levels(text)
        self._of = lru_cache(maxsize=1_000)(self._find)

    def allows(self, module: str, level: str) -> bool:
        """Return whether an event of a level is written. Events of unknown levels are."""
        return LEVELS.get(level, logging.CRITICAL) >= self._of(module)

    def _find(self, module: str) -> int:
        while module:
            if module in self._levels:
                return self._levels[module]
            module = module.rpartition(".")[0]
        return self._levels[""]


def parse_levels(text: str) -> Mapping[str, int]:
    """Parse `info,xds.server=debug`: a level for everything, and levels of modules. The key of the former is empty.

    Raises ValueError, which names the part that is wrong.
    """
    levels = {"": LEVELS[DEFAULT]}
    for part in filter(None, (each.strip() for each in text.replace("\n", ",").split(","))):
        module, _, level = part.rpartition("=")
        if level.strip().lower() not in LEVELS:
            raise ValueError(f"{part!r} is neither a level nor module=level, with a level of {', '.join(LEVELS)}")
        levels[module.strip()] = LEVELS[level.strip().lower()]
    return levels
