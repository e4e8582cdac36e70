"""Connections that began by one tunnel stay on it while it lasts, though others go by the next one already.

Both may have the same address inside, as providers give one to each customer: addresses do not tell them apart. So a connection
gets a mark (conntrack's) by the tunnel that it leaves by, and as long as the old tunnel is there, what has its mark is routed by
it (a `route` chain of nftables). Marks are never used again: what began by a tunnel that is gone goes the way of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Final

import structlog

from agent.net.commands import CommandFailed, run
from agent.net.ss import ss
from agent.vpn.driver import ActiveTunnel
from agent.vpn.slots import InterfaceSlot

log = structlog.get_logger()

TABLE: Final = "exitplane_pinning"
REMOVAL: Final = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
"""Nothing there is fine."""
_FIRST_MARK: Final = 0x45510000
_TOGETHER: Final = 100
"""Connections that are ended with one command."""


def render(marks: Mapping[InterfaceSlot, int], staying: InterfaceSlot | None = None) -> str:
    """The table, as `nft -f` reads it: each slot's connections by their mark, and whose stay though the way of all is another."""
    notes = "".join(f'    oifname "{slot.interface}" ct mark set {mark:#x}\n' for slot, mark in marks.items())
    stays = "" if staying is None else f"    ct mark {marks[staying]:#x} meta mark set {staying.mark:#x}\n"
    return (
        f"{REMOVAL}table inet {TABLE} {{\n"
        f"  chain stay {{\n    type route hook output priority -150; policy accept;\n{stays}  }}\n"
        f"  chain note {{\n    type filter hook output priority 10; policy accept;\n{notes}  }}\n"
        "}\n"
    )


class ConnectionPinning:
    """Those that go by the tunnels of an exit. Without nftables they are not told apart, and end when the tunnel changes."""

    def __init__(self) -> None:
        self._numbers = count(_FIRST_MARK)
        self._marks: dict[InterfaceSlot, int] = {}
        self._left: list[str] = []
        """Filters of ss(8) for connections that began by the old tunnel."""

    async def begin(self, slot: InterfaceSlot, before: ActiveTunnel | None = None) -> None:
        """From now on they begin by this slot, those of another slot stay there; `before` is the tunnel that is up on that."""
        others = [each for each in self._marks if each != slot]
        self._marks = {**{each: self._marks[each] for each in others}, slot: next(self._numbers)}
        await _apply(render(self._marks, others[0] if others else None))
        self._left = [] if before is None else await _open_from(before.addresses)

    async def leave(self, slot: InterfaceSlot) -> None:
        """End those that stayed on a slot whose tunnel is to be taken down: they would hang where they can learn of no end."""
        if self._marks.pop(slot, None) is None:
            return  # nothing began there, or it was left before
        left, self._left = self._left, []
        for begin in range(0, len(left), _TOGETHER):
            await ss("-K", " or ".join(left[begin : begin + _TOGETHER]))
        await _apply(render(self._marks))

    async def forget(self) -> None:
        """Remove the table."""
        await _apply(REMOVAL)


async def _apply(text: str) -> None:
    try:
        await run("nft", "-f", "-", text=text)
    except CommandFailed as error:
        log.warning("tunnel.connections_not_kept", reason=error.message)


async def _open_from(addresses: tuple[str, ...]) -> list[str]:
    """Filters for the TCP connections that are open from these addresses, each for one."""
    here = " or ".join(f"src [{each}]" if ":" in each else f"src {each}" for each in addresses)
    lines = [line.split() for line in (await ss(f"( {here} )")).splitlines()]
    return [f"( src {line[2]} and dst {line[3]} )" for line in lines if len(line) >= 4]
