"""Pinning of connections to the tunnel on which they began, while another tunnel carries the new ones.

Providers may give both tunnels the same inner address, so addresses do not tell them apart. A connection gets a conntrack mark by
the tunnel through which it leaves. While the old tunnel is up, an nftables chain of type `route` sends packets with its mark through it.
A mark is never used again, so connections of a tunnel that is gone follow the default route.
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
REMOVE_TABLE: Final = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
"""Removes the table, whether it exists or not."""
_FIRST_MARK: Final = 0x45510000
_FILTERS_PER_COMMAND: Final = 100
"""The number of connections that one call of ss(8) closes."""


def render(marks: Mapping[InterfaceSlot, int], pinned: InterfaceSlot | None = None) -> str:
    """Return the table as `nft -f` reads it. It marks the connections of each slot, and keeps those of `pinned` on it."""
    mark_rules = "".join(f'    oifname "{slot.interface}" ct mark set {mark:#x}\n' for slot, mark in marks.items())
    pin_rule = "" if pinned is None else f"    ct mark {marks[pinned]:#x} meta mark set {pinned.mark:#x}\n"
    return (
        f"{REMOVE_TABLE}table inet {TABLE} {{\n"
        f"  chain pin {{\n    type route hook output priority -150; policy accept;\n{pin_rule}  }}\n"
        f"  chain mark_new {{\n    type filter hook output priority 10; policy accept;\n{mark_rules}  }}\n"
        "}\n"
    )


class ConnectionPinning:
    """The pinned connections of an exit. Without nftables none is pinned, and all end when the tunnel changes."""

    def __init__(self) -> None:
        self._next_mark = count(_FIRST_MARK)
        self._marks: dict[InterfaceSlot, int] = {}
        self._old_filters: list[str] = []
        """Filters of ss(8) for connections of the old tunnel."""

    async def pin_to(self, slot: InterfaceSlot, old: ActiveTunnel | None = None) -> None:
        """Pin new connections to `slot`; those of the other slot stay there. `old` is the tunnel in the other slot."""
        others = [each for each in self._marks if each != slot]
        self._marks = {**{each: self._marks[each] for each in others}, slot: next(self._next_mark)}
        await _apply(render(self._marks, others[0] if others else None))
        self._old_filters = [] if old is None else await _filters_of_open_connections(old.addresses)

    async def close_connections(self, slot: InterfaceSlot) -> None:
        """Close the connections of a slot before its tunnel goes down, as their ends would not notice and hang."""
        if self._marks.pop(slot, None) is None:
            return  # nothing was pinned there, or it was closed before
        filters, self._old_filters = self._old_filters, []
        for start in range(0, len(filters), _FILTERS_PER_COMMAND):
            await ss("-K", " or ".join(filters[start : start + _FILTERS_PER_COMMAND]))
        await _apply(render(self._marks))

    async def remove(self) -> None:
        """Remove the table."""
        await _apply(REMOVE_TABLE)


async def _apply(text: str) -> None:
    try:
        await run("nft", "-f", "-", text=text)
    except CommandFailed as error:
        log.warning("tunnel.pinning_failed", reason=error.message)


async def _filters_of_open_connections(addresses: tuple[str, ...]) -> list[str]:
    """Return a filter of ss(8) for each TCP connection that is open from these addresses."""
    sources = " or ".join(f"src [{each}]" if ":" in each else f"src {each}" for each in addresses)
    lines = [line.split() for line in (await ss(f"( {sources} )")).splitlines()]
    return [f"( src {line[2]} and dst {line[3]} )" for line in lines if len(line) >= 4]
