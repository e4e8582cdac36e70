"""A small network to prove tunnels in: an exit's namespace, the provider's, and one cable between them.

    eptun-exit                                   eptun-net
    eptun-o  10.254.53.2 ───────────────── eptun-i 10.254.53.1      the outer link
             fd53::2                                fd53::1
    eptun0   the tunnel under test         eptun-wg / eptun-ov      its far ends
    eptun0-b the one beside it             eptun-w2
                                           page, resolver and control plane are served here, on every address

Whatever leaves outside the tunnel arrives, because the exit has a default route over the cable: a leak would work.

Each process that tests has a lab of its own: the names stand in a mount namespace (tests/tunnels/namespaces.py), and a warden ends
who lives there when the lab, or the process, does.
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
TUNNEL, BESIDE = "eptun0", "eptun0-b"
EXIT_ADDRESS, NET_ADDRESS = "10.254.53.2", "10.254.53.1"
EXIT_ADDRESS_6, NET_ADDRESS_6 = "fd53::2", "fd53::1"
PAGE = "203.0.113.80"
PAGE_6 = "2001:db8:53::80"
PORT = 8443
"""That gateways dial at the exit."""
ROOT = Path(__file__).parents[2]
AGENT = "tests.tunnels.rotating_agent"
"""The module that an exit's agent is run by."""
# whoever started it is not ended, though a thread of it be inside; grep finds nobody when all are gone
_WARDEN = """
read -r _
while pids=$(for each in "$@"; do ip netns pids "$each"; done | grep -vx "$PPID"); do
  kill -9 $pids
  sleep 0.01
done
"""
COMMAND_S = 60.0
"""A bound for what takes no time, on a machine that has much else to do."""
_ETH_P_ALL = 3
_THREAD_ENDS_WITHIN_S = 5.0
"""A thread that is about to end is no longer Python's, and still the kernel's."""


def why_no_lab() -> str | None:
    """What keeps this machine from having the lab, or None."""
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
    """The lab, while the block lasts."""
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
    """Several words to `ip` by one process."""
    done = subprocess.run(
        ("ip", "-n", namespace, "-batch", "-"),
        input="\n".join([*lines, ""]), capture_output=True, text=True, timeout=COMMAND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{lines}: {done.stderr}"


@contextlib.contextmanager
def _warden() -> Iterator[None]:
    """A process that ends whoever lives in the lab, when the block ends or this process does, however that comes about.

    It hears of the end by its input, which is closed by then.
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
    """The ids of the processes there whose command holds `program`, other than this one.

    Not their children of the same words: these are about to become another program.
    """
    parents = {}
    for pid in map(int, ip("netns", "pids", namespace, check=False).split()):
        with contextlib.suppress(OSError):
            if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != os.getpid():
                parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if not program or parent not in parents]


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread, and whatever it starts, is in the namespace meanwhile. A socket stays in the one that it was made in.

    No thread may be started meanwhile that stays: it would be in the namespace for good, and with gRPC's, which all servers and
    channels of a process share, later tests would find nobody at home. Raises AssertionError.
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
    """The names of this process's threads that are in another network namespace than this one; not those of a loop's pool."""
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
    """Every packet that leaves the exit by its outer link, as the kernel hands it to the cable."""

    def __init__(self) -> None:
        with inside(EXIT):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 * 2**20)  # SO_RCVBUFFORCE
            self._socket.bind((OUTER, 0))
        self._socket.setblocking(False)
        self.frames: list[bytes] = []

    def take(self) -> list[bytes]:
        """The Ethernet frames that left since the beginning."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, _, _) = self._socket.recvfrom(65_536)
                if kind == socket.PACKET_OUTGOING:
                    self.frames.append(frame)
        return self.frames

    @property
    def lost(self) -> int:
        """Packets that the kernel had no room for: then nothing is proven."""
        statistics = self._socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        return int.from_bytes(statistics[4:8], "little")

    def close(self) -> None:
        self._socket.close()


def describe(frame: bytes) -> tuple[str, str, str, int, int]:
    """A frame's kind (`arp`, `udp`, `tcp`, `icmp6:TYPE`, …), source, destination, and their ports."""
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
    """What a test starts in a namespace, ended by its id."""

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
    """Ask again until it holds; gives what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)
    return answer
