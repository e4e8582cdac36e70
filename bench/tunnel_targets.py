"""A target of tunnels: `tunnel_targets.py ADDRESS PORT`. It runs until it is ended.

The first bytes of a connection say what it does: `send` sends zeros without end, anything else is echoed from then on.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from contextlib import closing, suppress
from typing import Final, cast

import uvloop

SEND: Final = b"send"
_BACKLOG: Final = 4096
_CHUNK: Final = bytes(1024 * 1024)


class TunnelTarget(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if data != SEND:
            self._transport.write(data)
            return
        self._transport.pause_reading()
        sender = socket.socket(fileno=socket.dup(self._transport.get_extra_info("socket").fileno()))
        threading.Thread(target=_send, args=(sender,), daemon=True).start()


def _send(sender: socket.socket) -> None:
    """Send zeros until the peer closes."""
    sender.setblocking(True)
    with closing(sender), suppress(OSError):
        while True:
            sender.sendall(_CHUNK)


async def serve(address: str, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(TunnelTarget, address, port, backlog=_BACKLOG)
    await server.serve_forever()


def main() -> None:
    address, port = sys.argv[1:]
    uvloop.run(serve(address, int(port)))


if __name__ == "__main__":
    main()
