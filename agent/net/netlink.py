"""Notices when the links, addresses or routes of the network namespace change: a moment in which a leak begins or ends."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import Final

from agent.config.status import StatusBoard

# the multicast groups of rtnetlink(7): links, addresses and routes of IPv4, and the same of IPv6
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_SETTLE_S: Final = 0.05
_LONGEST: Final = 65_536


async def note_changes(board: StatusBoard) -> None:
    """Count changes up on the board, those within a moment as one, until cancelled."""
    loop = asyncio.get_running_loop()
    with closing(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    ) as kernel:
        kernel.bind((0, _GROUPS))
        while True:
            await _next(loop, kernel)
            await asyncio.sleep(_SETTLE_S)
            _drop_what_waits(kernel)
            board.update(network_changes=board.report.network_changes + 1)


async def _next(loop: asyncio.AbstractEventLoop, kernel: socket.socket) -> None:
    try:
        await loop.sock_recv(kernel, _LONGEST)
    except OSError:
        return  # more came than the socket holds (ENOBUFS): something changed


def _drop_what_waits(kernel: socket.socket) -> None:
    try:
        while kernel.recv(_LONGEST):
            pass
    except OSError:
        return
