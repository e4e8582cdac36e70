"""wg-quick's files (wg-quick(8), wg(8)), read without running anything that they say. Pure."""

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
"""Peers are spoken to at least this often, so that a dead one is noticed."""
_KEY_BYTES: Final = 32
_SHOWN_NAME: Final = re.compile(r"[A-Za-z]{1,24}")
_SECTIONS: Final = ("interface", "peer")
_MTU_MIN: Final = 576
_PORT_MAX: Final = 65_535
_COMMANDS: Final = frozenset({"preup", "postup", "predown", "postdown", "saveconfig"})


@dataclass(frozen=True, slots=True)
class Peer:
    """The far end. Keys are base64; `allowed` are the networks behind it; it is spoken to every `keepalive_s` seconds."""

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
    """A tunnel as a file declares it. `resolvers` are IP addresses; None leaves a choice to the driver."""

    name: str
    private_key: str = field(repr=False)
    addresses: tuple[Interface, ...]
    peers: tuple[Peer, ...]
    resolvers: tuple[str, ...] = ()
    mtu: int | None = None
    listen_port: int | None = None

    @property
    def main_peer(self) -> Peer:
        """The peer that what is not anybody else's goes to."""
        return next((peer for peer in self.peers if peer.takes_all), self.peers[0])


def parse_wg_quick(text: str, name: str) -> WireGuardFile:
    """Read a file's text; `name` is what errors call it. Raises BadTunnelFile.

    What wg-quick would run as a command is refused. FwMark and Table are checked and not used: both are the agent's own.
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
    """One section's values: by key in lower case, each with the number of its line."""

    kind: str
    file: str
    line: int
    values: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def one(self, key: str, read: Callable[[str], Any], hint: str) -> Any:
        """The only value of a key, or None. Raises BadTunnelFile."""
        found = self.values.get(key.lower(), [])
        if len(found) > 1:
            raise BadTunnelFile(self.file, f"{key} is given a second time", line=found[1][0], hint="leave one of them")
        return self._read(key, *found[0], read, hint) if found else None

    def needed(self, key: str, read: Callable[[str], Any], hint: str) -> Any:
        value = self.one(key, read, hint)
        if value is None:
            section = self.kind.capitalize()
            raise BadTunnelFile(self.file, f"[{section}] has no {key}", line=self.line, hint=hint)
        return value

    def listed(self, key: str, read: Callable[[str], Any], hint: str) -> Iterator[Any]:
        """What the lines of a key list, separated by commas."""
        for line, text in self.values.get(key.lower(), []):
            for part in text.split(","):
                yield self._read(key, line, part.strip(), read, hint)

    def _read(self, key: str, line: int, text: str, read: Callable[[str], Any], hint: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            # the value is not shown: whoever mixes up two lines would find a key in a log
            raise BadTunnelFile(self.file, f"{key} {_why(error)}", line=line, hint=hint) from None


class _Unfit(ValueError):
    """What is wrong with a value, in words that do not hold it."""


def _why(error: ValueError) -> str:
    return str(error) if isinstance(error, _Unfit) else "is not what it should be"


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
            raise BadTunnelFile(name, "stands before any section", line=number, hint="begin with [Interface]")
        _check_key(sections[-1], key, number)
        sections[-1].values.setdefault(key.lower(), []).append((number, value))
    return sections


def _check_key(section: _Section, key: str, line: int) -> None:
    shown = key if _SHOWN_NAME.fullmatch(key) else "this"
    if key.lower() in _COMMANDS:
        reason = "an agent runs no commands out of a file that a provider wrote, and writes none back"
        raise BadTunnelFile(section.file, f"{shown} is refused: {reason}", line=line, hint="remove the line")
    if key.lower() not in _KEYS[section.kind]:
        known = ", ".join(sorted(_KEYS[section.kind]))
        what = f"{shown} is no setting of [{section.kind.capitalize()}]"
        raise BadTunnelFile(section.file, what, line=line, hint=f"known are {known}")


def _interface(section: _Section, peers: tuple[Peer, ...]) -> WireGuardFile:
    section.one("FwMark", _mark, "write a number, or leave it out")
    section.one("Table", _table, "leave it out: the agent routes everything into the tunnel")
    addresses = tuple(section.listed("Address", _address, "write an address such as 10.64.0.2/32"))
    if not addresses:
        raise BadTunnelFile(section.file, "[Interface] has no Address", line=section.line, hint="add the tunnel's own")
    resolvers = (each for each in section.listed("DNS", _resolver, "write the address of a resolver") if each)
    return WireGuardFile(
        name=section.file,
        private_key=section.needed("PrivateKey", _key, _KEY_MEND),
        addresses=addresses,
        peers=peers,
        resolvers=tuple(dict.fromkeys(resolvers)),
        mtu=section.one("MTU", _number(_MTU_MIN, _PORT_MAX), f"write a number from {_MTU_MIN}"),
        listen_port=section.one("ListenPort", _number(0, _PORT_MAX), "write a port"),
    )


def _peer(section: _Section) -> Peer:
    allowed = tuple(section.listed("AllowedIPs", _network, "write networks such as 0.0.0.0/0, ::/0"))
    if not allowed:
        hint = "add AllowedIPs = 0.0.0.0/0, ::/0: without, nothing would go to it"
        raise BadTunnelFile(section.file, "[Peer] has no AllowedIPs", line=section.line, hint=hint)
    seconds = section.one("PersistentKeepalive", _keepalive, "write seconds, or off")
    return Peer(
        public_key=section.needed("PublicKey", _key, _KEY_MEND),
        allowed=allowed,
        endpoint=section.needed("Endpoint", _endpoint, "write host:port: an agent has to know where to call"),
        preshared_key=section.one("PresharedKey", _key, _KEY_MEND),
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


_KEY_MEND: Final = "a key is 32 bytes in base64, as `wg genkey` and `wg pubkey` print it"


def _key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _Unfit("is not base64") from None
    if len(raw) != _KEY_BYTES:
        raise _Unfit(f"has {len(raw)} bytes instead of {_KEY_BYTES}")
    return base64.b64encode(raw).decode()


def _address(text: str) -> Interface:
    return _unless("is no IP address", lambda: ip_interface(text))


def _network(text: str) -> Network:
    return _unless("is no network", lambda: ip_network(text, strict=False))


def _endpoint(text: str) -> Endpoint:
    return _unless("is not host:port", lambda: parse_endpoint(text))


def _resolver(text: str) -> str | None:
    """A resolver's address; None for a search domain, which an exit has no use for."""
    try:
        address = ip_address(text)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z][A-Za-z0-9._-]*", text):
            raise _Unfit("is no IP address") from None
        return None
    if address.is_loopback or address.is_unspecified:
        raise _Unfit("is not behind the tunnel")
    return str(address)


def _unless(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError:
        raise _Unfit(what) from None


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 12 and lowest <= int(text) <= highest):
            raise _Unfit(f"is no number from {lowest} to {highest}")
        return int(text)

    return read


def _keepalive(text: str) -> int:
    return 0 if text.lower() == "off" else _number(0, _PORT_MAX)(text)


def _mark(text: str) -> int:
    if text.lower() == "off":
        return 0
    return _unless("is no number", lambda: int(text, 0))


def _table(text: str) -> str:
    if text.lower() == "off":
        raise _Unfit("is off, and an exit without routes carries nothing")
    if text.lower() != "auto":
        _number(1, 2**32 - 1)(text)
    return text
