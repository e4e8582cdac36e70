"""Output for people: texts that others wrote are shown as they are, and move neither the cursor nor a style."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LAYOUT = frozenset("\n\t")


def printable(text: object) -> str:
    """Return the text with U+FFFD in place of control and formatting characters, except for line ends and tabs.

    An exit's reasons and logs are an exit's words: an escape sequence in them would run in the operator's terminal.
    """
    return "".join(each if each.isprintable() or each in _LAYOUT else "\N{REPLACEMENT CHARACTER}" for each in str(text))


def console() -> Console:
    """Return a console for standard output that finds no markup in what it prints."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def add_row(table: Table, cells: Iterable[object]) -> None:
    """Add a row of printable cells; None is an empty one."""
    table.add_row(*("" if cell is None else printable(cell) for cell in cells))
