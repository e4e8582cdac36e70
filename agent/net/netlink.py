"""Changes of the network namespace's links, addresses and routes: at such a moment a leak may begin or end."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import Final

from agent.config.status import StatusBoard

# the multicast groups of rtnetlink(7): links, addresses and routes of IPv4, and the same of IPv6
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_SETTLE_S: Final = 0.05
_MESSAGE_MAX_BYTES: Final = 65_536


async def count_network_changes(board: StatusBoard) -> None:
    """Count changes on the board until cancelled. Changes within 50 ms count as one."""
    loop = asyncio.get_running_loop()
    with closing(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    ) as kernel:
        kernel.bind((0, _GROUPS))
        while True:
            await _next(loop, kernel)
            await asyncio.sleep(_SETTLE_S)
            _discard_pending(kernel)
            board.update(network_changes=board.report.network_changes + 1)


async def _next(loop: asyncio.AbstractEventLoop, kernel: socket.socket) -> None:
    try:
        await loop.sock_recv(kernel, _MESSAGE_MAX_BYTES)
    except OSError:
        return  # ENOBUFS: more messages than the socket holds, so something changed


def _discard_pending(kernel: socket.socket) -> None:
    try:
        while kernel.recv(_MESSAGE_MAX_BYTES):
            pass
    except OSError:
        return
