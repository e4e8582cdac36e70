"""A parser of OpenVPN's client files (`.ovpn`), which executes nothing of them. Pure.

OpenVPN never reads the provider's file, but what `OpenVpnFile.render` returns: only options that are known to be harmless
(file_options.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from agent.vpn.errors import BadTunnelFile
from agent.vpn.openvpn.file_options import CIPHERS, IGNORED, INLINE, PASSED_ON, refusal_reason
from model.endpoint import Endpoint, parse_endpoint

_SHOWN_NAME: Final = re.compile(r"[a-z0-9-]{1,32}")
_PROTOCOLS: Final = {
    **dict.fromkeys(("udp", "udp4", "udp6"), "udp"),
    **dict.fromkeys(("tcp", "tcp4", "tcp6", "tcp-client", "tcp4-client", "tcp6-client"), "tcp"),
}
_PORT: Final = 1194
_LINE_MAX: Final = 254
"""The bytes of a line that OpenVPN reads at once (OPTION_LINE_SIZE in its source). It takes what follows for another line, which may
end a block, so that the rest of the block would count as options."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A server's endpoint, and its protocol, `udp` or `tcp`."""

    endpoint: Endpoint
    protocol: str


@dataclass(frozen=True, slots=True)
class OpenVpnFile:
    """A tunnel as a file declares it. OpenVPN gets `settings` and `blocks`."""

    name: str
    remotes: tuple[Remote, ...]
    settings: tuple[tuple[str, ...], ...]
    blocks: tuple[tuple[str, str], ...] = field(repr=False)
    needs_credentials: bool
    resolvers: tuple[str, ...] = ()

    def render(self) -> str:
        """Return the provider's part of OpenVPN's configuration."""
        lines = [_render(setting) for setting in self.settings]
        blocks = [f"<{name}>\n{text}</{name}>" for name, text in self.blocks]
        return "\n".join([*lines, *blocks, ""])


def parse_openvpn(text: str, name: str) -> OpenVpnFile:
    """Parse a file's text. Errors call the file `name`. Raises BadTunnelFile."""
    reader = _Reader(name)
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        reader.read(number, line)
    return reader.finish()


class _Reader:
    """A parser that takes one line at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._line = 0
        self._block: tuple[str, int, list[str]] | None = None
        self._blocks: dict[str, str] = {}
        self._settings: list[tuple[str, ...]] = []
        self._remotes: list[tuple[int, list[str]]] = []
        self._resolvers: list[str] = []
        self._protocol, self._port = "udp", _PORT
        self._needs_credentials = False

    def read(self, number: int, line: str) -> None:
        """Parse the next line. Raises BadTunnelFile."""
        self._line = number
        if self._block is not None:
            self._continue_block(line)
            return
        if line.strip().startswith("<"):
            self._open_block(line.strip())
            return
        option, *values = self._split(line) or [""]
        if option:
            self._take(option.removeprefix("--").lower(), values)

    def finish(self) -> OpenVpnFile:
        """Check what was read, and return it. Raises BadTunnelFile."""
        if self._block is not None:
            block, self._line, _ = self._block
            raise self._bad(f"<{block}> is not closed", f"end it with </{block}>")
        if not self._remotes:
            raise BadTunnelFile(self._name, "has no remote", hint="add the server as `remote host port`")
        if not ({"ca"} & self._blocks.keys()):
            raise BadTunnelFile(self._name, "has no <ca>", hint="add the provider's authority between <ca> and </ca>")
        if ("cert" in self._blocks) != ("key" in self._blocks):
            raise BadTunnelFile(self._name, "has one of <cert> and <key>", hint="add the other one")
        if "cert" not in self._blocks and not self._needs_credentials:
            raise BadTunnelFile(
                self._name, "does not authenticate the client", hint="add <cert> and <key>, or auth-user-pass"
            )
        return OpenVpnFile(
            name=self._name,
            remotes=tuple(dict.fromkeys(self._remote(*given) for given in self._remotes)),
            settings=tuple(self._settings),
            blocks=tuple(self._blocks.items()),
            needs_credentials=self._needs_credentials,
            resolvers=tuple(dict.fromkeys(self._resolvers)),
        )

    # -- blocks

    def _open_block(self, line: str) -> None:
        block = line.removeprefix("<").removesuffix(">").lower()
        if not line.endswith(">") or block not in INLINE:
            shown = f"<{block}>" if _SHOWN_NAME.fullmatch(block) else "this"
            hint = f"known are {', '.join(sorted(INLINE))}; write servers as `remote` lines"
            raise self._bad(f"{shown} opens no known block", hint)
        if block in self._blocks:
            raise self._bad(f"<{block}> is given a second time", "leave one of them")
        self._block = (block, self._line, [])

    def _continue_block(self, line: str) -> None:
        assert self._block is not None
        block, begun, lines = self._block
        if line.strip().lower() == f"</{block}>":
            self._blocks[block] = "".join(f"{each}\n" for each in lines)
            self._block = None
        elif line.strip().startswith("<"):
            self._line = begun
            raise self._bad(f"<{block}> is not closed", f"end it with </{block}>")
        else:
            lines.append(self._fitting(line.strip()))

    # -- options

    def _split(self, line: str) -> list[str]:
        if line.lstrip().startswith(("#", ";")):
            return []
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
            lexer.whitespace_split, lexer.commenters = True, "#;"
            words = list(lexer)
        except ValueError:
            raise self._bad("has an unclosed quotation mark", "close it") from None
        if not all(word.isprintable() for word in words):
            raise self._bad("holds characters that cannot be printed", "remove them")
        return words

    def _take(self, option: str, values: list[str]) -> None:
        reason = refusal_reason(option)
        if reason is not None:
            raise self._bad(f"{option} is refused: {reason}", "remove the line")
        match option, values:
            case "remote", _:
                self._remotes.append((self._line, values))
            case "proto", _:
                self._protocol = self._read_protocol(values[0] if values else "")
            case (("port" | "rport"), _):
                self._port = self._read_port(values[0] if values else "")
            case (("dev" | "dev-type"), _):
                if not values or not values[0].lower().startswith("tun"):
                    raise self._bad(f"{option} is no tun", "an exit routes packets: write `dev tun`")
            case "script-security", _:
                if values not in (["0"], ["1"]):
                    raise self._bad("script-security allows programs to be run", "remove the line")
            case "auth-user-pass", _:
                self._needs_credentials = True
                if values:
                    raise self._bad("auth-user-pass names a file", "leave the name out and use --tunnel-credentials")
            case ("dhcp-option", ["DNS" | "DNS6", address, *_]):
                self._resolvers.append(self._read_resolver(address))
            case _ if option in INLINE:
                self._take_reference(option, values)
            case _ if option in CIPHERS and "none" in ":".join(values).lower().split(":"):
                raise self._bad(
                    f"{option} allows none, so the tunnel may be readable", "name a cipher, such as AES-256-GCM"
                )
            case _ if option in PASSED_ON:
                self._fitting(_render((option, *values)))
                self._settings.append((option, *values))
            case _ if option not in IGNORED:
                shown = option if _SHOWN_NAME.fullmatch(option) else "this"
                raise self._bad(f"{shown} is no option that is known to be harmless", "remove the line")

    def _take_reference(self, option: str, values: list[str]) -> None:
        """Take a reference to an inline block: `tls-auth [inline] 1` gives the key direction, others add nothing."""
        if not values or values[0] != "[inline]":
            raise self._bad(f"{option} names a file", f"put its content between <{option}> and </{option}>")
        if option == "tls-auth" and len(values) > 1:
            self._settings.append(("key-direction", values[1]))

    def _remote(self, line: int, values: list[str]) -> Remote:
        self._line = line
        if not 1 <= len(values) <= 3:
            raise self._bad("remote is not `remote host port protocol`", "write it so")
        port = self._read_port(values[1]) if len(values) > 1 else self._port
        protocol = self._read_protocol(values[2]) if len(values) > 2 else self._protocol
        host = values[0]
        try:
            endpoint = parse_endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except ValueError:
            raise self._bad("remote names no host", "write a name or an IP address") from None
        return Remote(endpoint, protocol)

    def _read_port(self, text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) <= 65535):
            raise self._bad("has no port from 1 to 65535", "write a number")
        return int(text)

    def _read_protocol(self, text: str) -> str:
        if text.lower() not in _PROTOCOLS:
            raise self._bad("names a protocol that is neither udp nor tcp", "write udp or tcp")
        return _PROTOCOLS[text.lower()]

    def _read_resolver(self, text: str) -> str:
        try:
            address = ip_address(text)
        except ValueError:
            raise self._bad("dhcp-option DNS is no IP address", "write the resolver's address") from None
        if address.is_loopback or address.is_unspecified:
            raise self._bad("dhcp-option DNS is not behind the tunnel", "write the address of the provider's resolver")
        return str(address)

    def _fitting(self, line: str) -> str:
        """Return a line that OpenVPN will read. Raises BadTunnelFile when it would read the line's end as another line."""
        if len(line.encode()) > _LINE_MAX:
            raise self._bad(f"is longer than {_LINE_MAX} bytes, which OpenVPN cannot read", "break or shorten it")
        return line

    def _bad(self, what: str, hint: str) -> BadTunnelFile:
        return BadTunnelFile(self._name, what, line=self._line, hint=hint)


def _render(setting: Sequence[str]) -> str:
    option, *values = setting
    return " ".join((option, *map(_quote, values)))


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
