"""The header fields of a reply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


class Headers(Mapping[str, str]):
    """Header fields by case-insensitive name; the last value of a repeated field (`all_of` returns all)."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = [(name.lower(), value) for name, value in pairs]
        self._last = dict(self._pairs)

    def __getitem__(self, name: str) -> str:
        return self._last[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def all_of(self, name: str) -> list[str]:
        """Return the values of all fields with this name, in order."""
        return [value for each, value in self._pairs if each == name.lower()]
