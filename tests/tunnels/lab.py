"""The lab, a small network for tests of tunnels: an exit's namespace, the provider's, and a cable between them.

    eptun-exit                                   eptun-net
    eptun-o  10.254.53.2 ───────────────── eptun-i 10.254.53.1      the outer link
             fd53::2                                fd53::1
    eptun0   the tunnel under test         eptun-wg / eptun-ov      its far ends
    eptun0-b the next server's tunnel      eptun-w2
                                           page, resolver and control plane listen here, on every address

The exit has a default route over the cable, so that packets outside the tunnel arrive: a leak would work.

Each test process has its own lab: the names are in a mount namespace (tests/tunnels/namespaces.py). A warden kills the lab's processes
when the lab or the test process ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.tunnels.namespaces import CLONE_NEWNET, enter, private_mounts

EXIT, NET = "eptun-exit", "eptun-net"
OUTER, INNER = "eptun-o", "eptun-i"
TUNNEL, OTHER_SLOT = "eptun0", "eptun0-b"
EXIT_ADDRESS, NET_ADDRESS = "10.254.53.2", "10.254.53.1"
EXIT_ADDRESS_6, NET_ADDRESS_6 = "fd53::2", "fd53::1"
PAGE = "203.0.113.80"
PAGE_6 = "2001:db8:53::80"
PORT = 8443
"""The port of the exit that gateways connect to."""
ROOT = Path(__file__).parents[2]
AGENT = "tests.tunnels.rotating_agent"
"""The module that runs an exit's agent."""
# the parent is spared, though a thread of it may be inside; grep fails when no other process is left
_WARDEN = """
read -r _
while pids=$(for each in "$@"; do ip netns pids "$each"; done | grep -vx "$PPID"); do
  kill -9 $pids
  sleep 0.01
done
"""
COMMAND_S = 60.0
"""A timeout for commands on a busy machine."""
_ETH_P_ALL = 3
_THREAD_ENDS_WITHIN_S = 5.0
"""The kernel lists an ending thread for a moment after Python has forgotten it."""


def why_no_lab() -> str | None:
    """Return why this machine cannot have the lab, or None."""
    if os.geteuid() != 0:
        return "not running as root"
    for program in ("ip", "nft", "wg", "wireguard-go", "openvpn"):
        if not any(Path(folder, program).exists() for folder in os.environ["PATH"].split(":")):
            return f"{program} is not installed"
    return None if Path("/dev/net/tun").exists() else "/dev/net/tun is missing"


def ip(*words: str, namespace: str | None = None, check: bool = True) -> str:
    where = ("-n", namespace) if namespace else ()
    done = subprocess.run(("ip", *where, *words), capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def built() -> Iterator[None]:
    """Keep the lab while the block lasts."""
    with private_mounts(), _warden():
        _lay_cable()
        yield


def _lay_cable() -> None:
    for namespace in (EXIT, NET):
        ip("netns", "add", namespace)
    _batch(EXIT, f"link add {OUTER} type veth peer name {INNER} netns {NET}")
    for namespace, link, four, six in (
        (EXIT, OUTER, EXIT_ADDRESS, EXIT_ADDRESS_6),
        (NET, INNER, NET_ADDRESS, NET_ADDRESS_6),
    ):
        _batch(
            namespace,
            "link set lo up",
            f"address add {four}/24 dev {link}",
            f"address add {six}/64 dev {link} nodad",
            f"link set {link} up",
        )
    _batch(NET, f"address add {PAGE}/32 dev lo", f"address add {PAGE_6}/128 dev lo nodad")
    _batch(EXIT, f"route add default via {NET_ADDRESS}", f"route add ::/0 via {NET_ADDRESS_6}")


def _batch(namespace: str, *lines: str) -> None:
    """Run several commands of `ip` in one process."""
    done = subprocess.run(
        ("ip", "-n", namespace, "-batch", "-"),
        input="\n".join([*lines, ""]), capture_output=True, text=True, timeout=COMMAND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{lines}: {done.stderr}"


@contextlib.contextmanager
def _warden() -> Iterator[None]:
    """Run a process that kills the lab's processes when the block or this process ends.

    The end of its input is the signal.
    """
    warden = subprocess.Popen(
        ("sh", "-c", _WARDEN, "warden", EXIT, NET),
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        assert warden.stdin is not None
        warden.stdin.close()
        warden.wait(COMMAND_S)


def inhabitants(namespace: str, program: str = "") -> list[int]:
    """Return the ids of the namespace's processes whose command contains `program`, without this one.

    Children with the same command are left out: they are about to call exec.
    """
    parents = {}
    for pid in map(int, ip("netns", "pids", namespace, check=False).split()):
        with contextlib.suppress(OSError):
            if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != os.getpid():
                parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if not program or parent not in parents]


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Move this thread, and the processes that it starts, into a namespace while the block lasts. Sockets stay where they were made.

    Raises AssertionError if a thread was started and stays: it would stay in the namespace. All gRPC servers and channels of a process
    share threads, so later tests could not connect.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    wanted = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        enter(wanted, CLONE_NEWNET)
        yield
    finally:
        enter(before, CLONE_NEWNET)
        os.close(wanted)
        os.close(before)
    deadline = time.monotonic() + _THREAD_ENDS_WITHIN_S
    while strays := _threads_elsewhere():
        assert time.monotonic() < deadline, f"threads were started in {namespace}, and stay there: {strays}"
        time.sleep(0.01)


def _threads_elsewhere() -> list[str]:
    """Return the names of this process's threads in another network namespace, apart from those of an event loop's pool."""
    here, found = Path("/proc/thread-self/ns/net").readlink(), []
    ending = {each.native_id for each in threading.enumerate() if each.name.startswith("asyncio_")}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if int(task.name) not in ending and (task / "ns" / "net").readlink() != here:
                found.append((task / "comm").read_text().strip())
    return found


def has_interface(namespace: str, name: str) -> bool:
    return bool(ip("link", "show", name, namespace=namespace, check=False))


class Capture:
    """A capture of all packets that leave the exit through its outer link."""

    def __init__(self) -> None:
        with inside(EXIT):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 * 2**20)  # SO_RCVBUFFORCE
            self._socket.bind((OUTER, 0))
        self._socket.setblocking(False)
        self.frames: list[bytes] = []

    def take(self) -> list[bytes]:
        """Return the Ethernet frames that left since the start."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, _, _) = self._socket.recvfrom(65_536)
                if kind == socket.PACKET_OUTGOING:
                    self.frames.append(frame)
        return self.frames

    @property
    def lost(self) -> int:
        """Return how many packets the kernel dropped: any of them makes the test void."""
        statistics = self._socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        return int.from_bytes(statistics[4:8], "little")

    def close(self) -> None:
        self._socket.close()


def describe(frame: bytes) -> tuple[str, str, str, int, int]:
    """Return a frame's kind (`arp`, `udp`, `tcp`, `icmp6:TYPE`, …), source, destination, and their ports."""
    kind = int.from_bytes(frame[12:14], "big")
    packet = frame[14:]
    if kind == 0x0806:
        return "arp", "", "", 0, 0
    if kind == 0x0800:
        protocol, length = packet[9], (packet[0] & 15) * 4
        source, target = socket.inet_ntop(2, packet[12:16]), socket.inet_ntop(2, packet[16:20])
    elif kind == 0x86DD:
        protocol, length = packet[6], 40
        source, target = socket.inet_ntop(10, packet[8:24]), socket.inet_ntop(10, packet[24:40])
        if protocol == 0:  # hop-by-hop options
            protocol, length = packet[40], 40 + (packet[41] + 1) * 8
    else:
        return f"ethertype {kind:#x}", "", "", 0, 0
    content = packet[length:]
    if protocol in {6, 17}:
        name = "tcp" if protocol == 6 else "udp"
        return name, source, target, int.from_bytes(content[:2], "big"), int.from_bytes(content[2:4], "big")
    if protocol == 58:
        return f"icmp6:{content[0]}", source, target, 0, 0
    return f"protocol {protocol}", source, target, 0, 0


class Processes:
    """The processes that a test starts in namespaces, killed by their ids."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, namespace: str, *argv: str, log: str = "log", **more) -> subprocess.Popen[bytes]:
        with (self._folder / log).open("ab") as output:
            process = subprocess.Popen(
                ("ip", "netns", "exec", namespace, *argv), stdout=output, stderr=output, start_new_session=True, **more
            )
        self._started.append(process)
        return process

    def log(self, name: str = "log") -> str:
        return (self._folder / name).read_text(errors="replace")

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()


def wait_for(condition, timeout_s: float = COMMAND_S):
    """Call a function until its result is true, and return the result."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)
    return answer
