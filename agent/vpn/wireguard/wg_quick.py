"""A parser of wg-quick's files (wg-quick(8), wg(8)), which executes nothing of them. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any, Final, TypeAlias, TypeVar

from agent.vpn.errors import BadTunnelFile
from model.endpoint import Endpoint, parse_endpoint

Network: TypeAlias = IPv4Network | IPv6Network
T = TypeVar("T")
Interface: TypeAlias = IPv4Interface | IPv6Interface

KEEPALIVE_MAX_S: Final = 15
"""The longest interval of keepalives, so that a dead peer is noticed."""
_KEY_BYTES: Final = 32
_SHOWN_NAME: Final = re.compile(r"[A-Za-z]{1,24}")
_SECTIONS: Final = ("interface", "peer")
_MTU_MIN: Final = 576
_PORT_MAX: Final = 65_535
_COMMANDS: Final = frozenset({"preup", "postup", "predown", "postdown", "saveconfig"})


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer: its keys in base64, the networks behind it, and the interval of keepalives in seconds."""

    public_key: str
    allowed: tuple[Network, ...]
    endpoint: Endpoint | None = None
    preshared_key: str | None = field(default=None, repr=False)
    keepalive_s: int = KEEPALIVE_MAX_S

    @property
    def takes_all(self) -> bool:
        return any(network.prefixlen == 0 for network in self.allowed)


@dataclass(frozen=True, slots=True)
class WireGuardFile:
    """A tunnel as a file declares it. `resolvers` are IP addresses. None leaves a value to the driver."""

    name: str
    private_key: str = field(repr=False)
    addresses: tuple[Interface, ...]
    peers: tuple[Peer, ...]
    resolvers: tuple[str, ...] = ()
    mtu: int | None = None
    listen_port: int | None = None

    @property
    def main_peer(self) -> Peer:
        """The peer that has the default route, else the first one."""
        return next((peer for peer in self.peers if peer.takes_all), self.peers[0])


def parse_wg_quick(text: str, name: str) -> WireGuardFile:
    """Parse a file's text. Errors call the file `name`. Raises BadTunnelFile.

    Commands, which wg-quick would run, are refused. FwMark and Table are checked and not used: the agent sets both itself.
    """
    sections = _sections(text, name)
    interfaces = [section for section in sections if section.kind == "interface"]
    if len(interfaces) != 1:
        line = interfaces[1].line if interfaces else None
        what = "has a second [Interface]" if interfaces else "has no [Interface]"
        raise BadTunnelFile(name, what, line=line, hint="a file describes one tunnel: write one [Interface]")
    peers = tuple(_peer(section) for section in sections if section.kind == "peer")
    if not peers:
        raise BadTunnelFile(name, "has no [Peer]", hint="add the provider's server as a [Peer]")
    _refuse_overlaps(peers, name)
    return _interface(interfaces[0], peers)


@dataclass(slots=True)
class _Section:
    """The values of a section, by key in lower case, each with its line number."""

    kind: str
    file: str
    line: int
    values: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def read_one(self, key: str, read: Callable[[str], Any], hint: str) -> Any:
        """Read the only value of a key, None without one. Raises BadTunnelFile."""
        found = self.values.get(key.lower(), [])
        if len(found) > 1:
            raise BadTunnelFile(self.file, f"{key} is given a second time", line=found[1][0], hint="leave one of them")
        return self._read(key, *found[0], read, hint) if found else None

    def read_required(self, key: str, read: Callable[[str], Any], hint: str) -> Any:
        value = self.read_one(key, read, hint)
        if value is None:
            section = self.kind.capitalize()
            raise BadTunnelFile(self.file, f"[{section}] has no {key}", line=self.line, hint=hint)
        return value

    def read_list(self, key: str, read: Callable[[str], Any], hint: str) -> Iterator[Any]:
        """Read the values in all lines of a key, separated by commas."""
        for line, text in self.values.get(key.lower(), []):
            for part in text.split(","):
                yield self._read(key, line, part.strip(), read, hint)

    def _read(self, key: str, line: int, text: str, read: Callable[[str], Any], hint: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            # the value is not shown: if two lines are mixed up, it is a key
            raise BadTunnelFile(self.file, f"{key} {_why(error)}", line=line, hint=hint) from None


class _BadValue(ValueError):
    """A value cannot be used. The text does not hold the value."""


def _why(error: ValueError) -> str:
    return str(error) if isinstance(error, _BadValue) else "is not what it should be"


_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "interface": frozenset({"privatekey", "address", "dns", "mtu", "listenport", "fwmark", "table"}),
    "peer": frozenset({"publickey", "presharedkey", "endpoint", "allowedips", "persistentkeepalive"}),
}


def _sections(text: str, name: str) -> list[_Section]:
    sections: list[_Section] = []
    for number, raw in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            kind = line.removeprefix("[").removesuffix("]").strip().lower()
            if not line.endswith("]") or kind not in _SECTIONS:
                raise BadTunnelFile(name, "is no section", line=number, hint="write [Interface] or [Peer]")
            sections.append(_Section(kind, name, number))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not value:
            raise BadTunnelFile(name, "is no `Key = value`", line=number, hint="write one setting to a line")
        if not sections:
            raise BadTunnelFile(name, "comes before any section", line=number, hint="begin with [Interface]")
        _check_key(sections[-1], key, number)
        sections[-1].values.setdefault(key.lower(), []).append((number, value))
    return sections


def _check_key(section: _Section, key: str, line: int) -> None:
    shown = key if _SHOWN_NAME.fullmatch(key) else "this"
    if key.lower() in _COMMANDS:
        reason = "an agent runs no commands out of a provider's file, and does not change the file"
        raise BadTunnelFile(section.file, f"{shown} is refused: {reason}", line=line, hint="remove the line")
    if key.lower() not in _KEYS[section.kind]:
        known = ", ".join(sorted(_KEYS[section.kind]))
        what = f"{shown} is no setting of [{section.kind.capitalize()}]"
        raise BadTunnelFile(section.file, what, line=line, hint=f"known are {known}")


def _interface(section: _Section, peers: tuple[Peer, ...]) -> WireGuardFile:
    section.read_one("FwMark", _mark, "write a number, or leave it out")
    section.read_one("Table", _table, "leave it out: the agent routes everything into the tunnel")
    addresses = tuple(section.read_list("Address", _address, "write an address such as 10.64.0.2/32"))
    if not addresses:
        raise BadTunnelFile(section.file, "[Interface] has no Address", line=section.line, hint="add the tunnel's own")
    resolvers = (each for each in section.read_list("DNS", _resolver, "write the address of a resolver") if each)
    return WireGuardFile(
        name=section.file,
        private_key=section.read_required("PrivateKey", _key, _KEY_HINT),
        addresses=addresses,
        peers=peers,
        resolvers=tuple(dict.fromkeys(resolvers)),
        mtu=section.read_one("MTU", _number(_MTU_MIN, _PORT_MAX), f"write a number from {_MTU_MIN}"),
        listen_port=section.read_one("ListenPort", _number(0, _PORT_MAX), "write a port"),
    )


def _peer(section: _Section) -> Peer:
    allowed = tuple(section.read_list("AllowedIPs", _network, "write networks such as 0.0.0.0/0, ::/0"))
    if not allowed:
        hint = "add AllowedIPs = 0.0.0.0/0, ::/0: without it, nothing is sent to the peer"
        raise BadTunnelFile(section.file, "[Peer] has no AllowedIPs", line=section.line, hint=hint)
    seconds = section.read_one("PersistentKeepalive", _keepalive, "write seconds, or off")
    return Peer(
        public_key=section.read_required("PublicKey", _key, _KEY_HINT),
        allowed=allowed,
        endpoint=section.read_required("Endpoint", _endpoint, "write host:port: the agent connects to it"),
        preshared_key=section.read_one("PresharedKey", _key, _KEY_HINT),
        keepalive_s=min(seconds or KEEPALIVE_MAX_S, KEEPALIVE_MAX_S),
    )


def _refuse_overlaps(peers: tuple[Peer, ...], name: str) -> None:
    taken: set[Network] = set()
    for peer in peers:
        for network in dict.fromkeys(peer.allowed):
            if network in taken:
                hint = "give each network to one peer; several servers are several files"
                raise BadTunnelFile(name, f"AllowedIPs gives {network} to two peers", hint=hint)
            taken.add(network)


_KEY_HINT: Final = "a key is 32 bytes in base64, as `wg genkey` and `wg pubkey` print it"


def _key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _BadValue("is not base64") from None
    if len(raw) != _KEY_BYTES:
        raise _BadValue(f"has {len(raw)} bytes instead of {_KEY_BYTES}")
    return base64.b64encode(raw).decode()


def _address(text: str) -> Interface:
    return _read_or("is no IP address", lambda: ip_interface(text))


def _network(text: str) -> Network:
    return _read_or("is no network", lambda: ip_network(text, strict=False))


def _endpoint(text: str) -> Endpoint:
    return _read_or("is not host:port", lambda: parse_endpoint(text))


def _resolver(text: str) -> str | None:
    """Read a resolver's address; None for a search domain, which an exit does not use."""
    try:
        address = ip_address(text)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z][A-Za-z0-9._-]*", text):
            raise _BadValue("is no IP address") from None
        return None
    if address.is_loopback or address.is_unspecified:
        raise _BadValue("is not behind the tunnel")
    return str(address)


def _read_or(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError:
        raise _BadValue(what) from None


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 12 and lowest <= int(text) <= highest):
            raise _BadValue(f"is no number from {lowest} to {highest}")
        return int(text)

    return read


def _keepalive(text: str) -> int:
    return 0 if text.lower() == "off" else _number(0, _PORT_MAX)(text)


def _mark(text: str) -> int:
    if text.lower() == "off":
        return 0
    return _read_or("is no number", lambda: int(text, 0))


def _table(text: str) -> str:
    if text.lower() == "off":
        raise _BadValue("is off, and an exit without routes carries nothing")
    if text.lower() != "auto":
        _number(1, 2**32 - 1)(text)
    return text
