"""The index of a demo among the sixteen of a machine: the first with a free lock, after the removal of its remains."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.errors import LabError
from demo.plan import MAX_INSTANCES
from demo.processes import end_processes_with_mark

# Below the range that Linux takes ports of outgoing connections from.
_FIRST_FREE_PORT = 20000
_PORTS_PER_INSTANCE = 100
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - only bound as a test, never listened on


@dataclass(frozen=True, slots=True)
class Instance:
    """A claimed index and its lock."""

    index: int
    lock: Path
    mark: str
    """A value in the environment of all its processes, by which the next holder of the lock finds them.

    It contains the inode of the lock, because the host also sees the processes of containers, whose demos have the same path.
    """


@contextlib.contextmanager
def claim_instance(sweep: Callable[[int], None]) -> Iterator[Instance]:
    """Claim the first free index, after the removal of what a killed holder left: processes, then `sweep(index)`, then files.

    Raises LabError if all are taken.
    """
    folder = _lock_folder()
    for index in range(MAX_INSTANCES):
        path = folder / f"demo-{index}.lock"
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            file = os.fstat(lock.fileno())
            instance = Instance(index, path, f"{path}:{file.st_dev}:{file.st_ino}")
            end_processes_with_mark(instance.mark)
            sweep(index)
            _remove_recorded_folder(instance)
            yield instance
            return
    raise LabError(f"{MAX_INSTANCES} demos already run on this machine", hint="end one of them")


@contextlib.contextmanager
def temporary_folder(instance: Instance) -> Iterator[Path]:
    """Create a folder that is removed at the end, or by the next holder of the index after a kill."""
    folder = Path(tempfile.mkdtemp(prefix=f"exitplane-demo-{instance.index}-"))
    instance.lock.write_text(str(folder))
    # The database's user must reach its folder below this one; folders with secrets have stricter modes.
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        _remove_recorded_folder(instance)


def choose_ports(instance: Instance, wanted: Mapping[str, int], address: str = "127.0.0.1") -> dict[str, int]:
    """Choose a free port on `address` for each option: the wanted one, or for 0 one that no other demo uses.

    Raises LabError, which names the option, if the port is in use.
    """
    first = _FIRST_FREE_PORT + instance.index * _PORTS_PER_INSTANCE
    # free on every address, because the port is also used on the demo's own loopback addresses
    free = (port for port in range(first, first + _PORTS_PER_INSTANCE) if _is_free(_ANY_ADDRESS, port))
    chosen = {}
    for option, port in wanted.items():
        if port and not _is_free(address, port):
            raise LabError(
                f"port {port} on {address} is in use", hint=f"choose another with {option} (0 takes a free one)"
            )
        chosen[option] = port or next(free, 0)
        if not chosen[option]:
            raise LabError(f"no port from {first} on is free on {address}", hint=f"name one with {option}")
    return chosen


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        # as servers do, so that recently closed connections of another demo do not block the port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _lock_folder() -> Path:
    if os.geteuid() == 0:
        folder = Path("/run/exitplane")
    elif runtime := os.environ.get("XDG_RUNTIME_DIR"):
        folder = Path(runtime) / "exitplane"
    else:
        folder = Path(tempfile.gettempdir()) / f"exitplane-{os.geteuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise LabError(f"{folder} belongs to another user", hint="remove it, or set XDG_RUNTIME_DIR")
    return folder


def _remove_recorded_folder(instance: Instance) -> None:
    recorded = instance.lock.read_text().strip()
    if recorded:
        shutil.rmtree(recorded, ignore_errors=True)
    instance.lock.write_text("")
