"""A link with a delay between two TUN interfaces: `delayed_link.py DELAY-MS INTERFACE INTERFACE`.

It creates both interfaces, which the caller may move into network namespaces, and hands each packet over after the delay. So a
kernel without netem will do. Packets are neither lost nor reordered here. It runs until it is ended; then both interfaces vanish.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_MAX_BYTES: Final = 65_536
_PACKETS_AT_ONCE: Final = 64
"""Packets that are read from one interface before the other one, and due packets, have their turn."""


def open_tun(name: str) -> int:
    """Create a TUN interface (the kernel's Documentation/networking/tuntap.rst), and return its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def relay(one: int, other: int, delay_s: float) -> None:
    """Hand packets from each interface to the other one, for ever."""
    waiting: deque[tuple[float, int, bytes]] = deque()
    while True:
        pause_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        select.select((one, other), (), (), pause_s)
        due_s = time.monotonic() + delay_s
        for source, sink in ((one, other), (other, one)):
            with suppress(BlockingIOError):
                for _ in range(_PACKETS_AT_ONCE):
                    waiting.append((due_s, sink, os.read(source, _PACKET_MAX_BYTES)))
        while waiting and waiting[0][0] <= time.monotonic():
            _, sink, packet = waiting.popleft()
            with suppress(OSError):  # the interface is down, or its queue is full
                os.write(sink, packet)


def main() -> None:
    delay_ms, one, other = sys.argv[1:]
    relay(open_tun(one), open_tun(other), float(delay_ms) / 1000)


if __name__ == "__main__":
    main()
