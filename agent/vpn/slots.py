"""The two interfaces that an exit's tunnels take in turn: while one carries clients, another server is tried on the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.net.interfaces import INTERFACE_NAME_MAX

_SECOND: Final = "-b"
_OTHERWISE: Final = "-c"


@dataclass(frozen=True, slots=True)
class InterfaceSlot:
    """An interface, the routing table of what goes by it alone, and the mark of packets that do.

    `suffix` tells its files from the other slot's.
    """

    interface: str
    table: int
    mark: int
    suffix: str = ""


def slots_of(interface: str) -> tuple[InterfaceSlot, InterfaceSlot]:
    """The slot of `--tunnel-interface`, which is taken first, and the one beside it."""
    return InterfaceSlot(interface, 5255, 0x4551), InterfaceSlot(_second(interface), 5256, 0x4552, _SECOND)


def _second(interface: str) -> str:
    """Another name that fits, which is the same every time: what a killed agent left is found by it."""
    short = interface.encode()[: INTERFACE_NAME_MAX - len(_SECOND)].decode(errors="ignore")
    return short + (_SECOND if short + _SECOND != interface else _OTHERWISE)
