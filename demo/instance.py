"""Which of the sixteen demos of this machine this one is: the first whose lock is free, after sweeping what it left."""

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
from demo.processes import end_marked

# Below the range that Linux takes ports of outgoing connections from.
_FIRST_FREE_PORT = 20000
_PORTS_PER_INSTANCE = 100
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - bound for a look, never listened on


@dataclass(frozen=True, slots=True)
class Instance:
    """A claimed index and the lock that holds it."""

    index: int
    lock: Path
    mark: str
    """Stands in the environment of its processes, by which the next holder of the same lock finds them.

    It names the lock's file, not only its path: the host sees the processes of its containers, where a demo has the same path.
    """


@contextlib.contextmanager
def claim_instance(sweep: Callable[[int], None]) -> Iterator[Instance]:
    """Hold the first free index. What a killed holder left is removed first: processes, then `sweep(index)`, then files."""
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
            end_marked(instance.mark)
            sweep(index)
            _remove_noted_folder(instance)
            yield instance
            return
    raise LabError(f"{MAX_INSTANCES} demos run on this machine already; end one of them")


@contextlib.contextmanager
def temporary_folder(instance: Instance) -> Iterator[Path]:
    """A folder that is removed at the end, or by the next holder of the same index if this one is killed."""
    folder = Path(tempfile.mkdtemp(prefix=f"exitplane-demo-{instance.index}-"))
    instance.lock.write_text(str(folder))
    # The database's own user has to reach its folder below; who writes secrets closes his own folder.
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        _remove_noted_folder(instance)


def choose_ports(instance: Instance, wanted: Mapping[str, int], address: str = "127.0.0.1") -> dict[str, int]:
    """A free port on `address` for each option: the one wanted, or for 0 one that no other demo takes.

    Raises SceneError that names the option whose port is in use.
    """
    first = _FIRST_FREE_PORT + instance.index * _PORTS_PER_INSTANCE
    # Free on every address, so that it will do for a loopback address of the demo's own, too.
    free = (port for port in range(first, first + _PORTS_PER_INSTANCE) if _is_free(_ANY_ADDRESS, port))
    chosen = {}
    for option, port in wanted.items():
        if port and not _is_free(address, port):
            raise LabError(f"port {port} on {address} is in use; choose another with {option} (0 takes a free one)")
        chosen[option] = port or next(free, 0)
        if not chosen[option]:
            raise LabError(f"no port from {first} on is free on {address}; name one with {option}")
    return chosen


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections that a former demo closed a moment ago are no hindrance.
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
        raise LabError(f"{folder} belongs to another user; remove it, or set XDG_RUNTIME_DIR")
    return folder


def _remove_noted_folder(instance: Instance) -> None:
    noted = instance.lock.read_text().strip()
    if noted:
        shutil.rmtree(noted, ignore_errors=True)
    instance.lock.write_text("")
