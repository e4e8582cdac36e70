"""Namespaces (namespaces(7)) of the test's thread, so that labs on one machine share no names.

Names of network namespaces are mounts in /run/netns. The control sockets of wireguard-go are named after the interface, whatever its
namespace. Two labs with the same /run would remove each other's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000
_CLONE_FS = 0x00000200
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
_PRIVATE = ("/run/netns", "/run/wireguard", "/etc/netns")
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter(descriptor: int, kind: int) -> None:
    """Move this thread into a namespace. Raises OSError."""
    _check(_LIBC.setns(descriptor, kind), "setns")


@contextlib.contextmanager
def private_network() -> Iterator[None]:
    """Give this thread, and the processes that it starts, a network namespace with a loopback interface alone."""
    with _kept("net", CLONE_NEWNET):
        _check(_LIBC.unshare(CLONE_NEWNET), "unshare")
        yield


@contextlib.contextmanager
def _kept(name: str, kind: int) -> Iterator[None]:
    """Return this thread to its present namespace of that kind after the block."""
    before = os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY)
    try:
        yield
    finally:
        enter(before, kind)
        os.close(before)


@contextlib.contextmanager
def private_mounts() -> Iterator[None]:
    """Give this thread, and the processes that it starts, a mount namespace with empty folders for names.

    The kernel removes it with its last process. Threads that run already keep the host's.
    """
    folder = Path.cwd()
    for each in _PRIVATE:
        Path(each).mkdir(parents=True, exist_ok=True)
    try:
        with _kept("mnt", _CLONE_NEWNS):
            _check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
            try:
                _check(_LIBC.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None), "mount /")
                for each in _PRIVATE:
                    _check(_LIBC.mount(b"tmpfs", each.encode(), b"tmpfs", 0, None), f"mount {each}")
                yield
            finally:
                # setns requires that no other thread shares this one's working directory
                _check(_LIBC.unshare(_CLONE_FS), "unshare")
    finally:
        os.chdir(folder)  # setns changed it to the root


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
