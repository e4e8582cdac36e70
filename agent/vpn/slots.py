"""The two slots for an exit's tunnels: one holds the tunnel that carries clients, the other one the next server's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.net.interfaces import INTERFACE_NAME_MAX

_SECOND: Final = "-b"
_SECOND_IF_TAKEN: Final = "-c"


@dataclass(frozen=True, slots=True)
class InterfaceSlot:
    """An interface, the routing table of packets that must leave through it, and their mark.

    `suffix` tells the slot's files from those of the other one.
    """

    interface: str
    table: int
    mark: int
    suffix: str = ""


def slots_of(interface: str) -> tuple[InterfaceSlot, InterfaceSlot]:
    """Return the slot of `--tunnel-interface`, which is used first, and the other one."""
    return InterfaceSlot(interface, 5255, 0x4551), InterfaceSlot(_second(interface), 5256, 0x4552, _SECOND)


def _second(interface: str) -> str:
    """Return another name that fits. It is always the same, so that an agent finds what a killed one left."""
    short = interface.encode()[: INTERFACE_NAME_MAX - len(_SECOND)].decode(errors="ignore")
    return short + (_SECOND if short + _SECOND != interface else _SECOND_IF_TAKEN)
