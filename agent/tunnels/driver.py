"""What brings up one tunnel to one server, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Line:
    """A tunnel that is up: its server's name, and the resolvers (IP addresses) that belong to it."""

    server: str
    resolvers: tuple[str, ...]


class Driver(Protocol):
    """A tunnel to one server. All drivers of an agent use the same interface, so one at a time is up."""

    @property
    def server(self) -> str:
        """What it is called towards people."""

    async def up(self) -> Line:
        """Bring it up, and see that the server answers. Raises TunnelFailed, and leaves what `down` removes."""

    async def look(self) -> str | None:
        """What is wrong by now, so that only a restart helps; None if nothing is."""

    async def down(self) -> None:
        """Remove whatever there is of it: also what a killed agent left, and also nothing."""
