"""Strangers: `stranger_clients.py JSON`, where the JSON has the arguments of `attack`.

They print `open` once all idle connections are open, and at the end of standard input the number of all that they opened.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

IDLE: Final = "P"
_TICKS_A_SECOND: Final = 20
_AT_ONCE: Final = 200


def stranger_clients(openings: Sequence[Any], idle: int, rate: int, addresses: int) -> tuple[str, ...]:
    """Return the command line of `attack` with these arguments."""
    arguments = {"openings": openings, "idle": idle, "rate": rate, "addresses": addresses}
    return (sys.executable, "-P", str(Path(__file__)), json.dumps(arguments))


def attack(*, openings: Sequence[tuple[tuple[str, int], str]], idle: int, rate: int, addresses: int) -> int:
    """Hold `idle` connections, and open `rate` new ones a second, which take the places of the oldest, until stdin ends.

    Each sends its opening, a target and a text, and nothing more. To a target on loopback they come from as many addresses as
    `addresses` says. Return how many were opened.
    """
    held: deque[socket.socket] = deque()
    opened = 0

    def open_some(count: int) -> None:
        nonlocal opened
        pending = []
        for _ in range(count):
            (host, port), text = openings[opened % len(openings)]
            each = socket.socket()
            each.setblocking(False)
            with suppress(OSError):
                if host.startswith("127."):
                    each.bind((f"127.0.0.{2 + opened % addresses}", 0))
                each.connect_ex((host, port))
            pending.append((each, text.encode()))
            opened += 1
            if len(held) >= idle:
                held.popleft().close()
        time.sleep(1 / _TICKS_A_SECOND)
        for each, sent in pending:
            with suppress(OSError):
                each.send(sent)
            held.append(each)

    reader = threading.Thread(target=sys.stdin.read, daemon=True)
    reader.start()
    while opened < idle and reader.is_alive():
        open_some(_AT_ONCE)
    print("open", flush=True)
    while reader.is_alive():
        open_some(max(1, rate // _TICKS_A_SECOND))
    return opened


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print(attack(**json.loads(sys.argv[1])))
