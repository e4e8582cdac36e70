"""By which interface clients' traffic goes now."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from agent.settings import Exit


@dataclass(slots=True)
class Course:
    """`interface` is None without one, as is the case beside a parent proxy. It is changed while `still` is held.

    Who looks at several things that have to fit together holds `still` meanwhile.
    """

    interface: str | None
    still: asyncio.Lock = field(default_factory=asyncio.Lock)

    def of(self, exit_: Exit) -> Exit:
        """The exit as it is now."""
        return exit_ if exit_.tunnel_interface == self.interface else replace(exit_, tunnel_interface=self.interface)
