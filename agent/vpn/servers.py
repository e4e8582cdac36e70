"""Reading the files of `--tunnel`: which kind each is, and which servers they name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from agent.config.credentials import Credentials, read_credentials
from agent.config.option_parsing import BadSetting
from agent.vpn.errors import BadTunnelFile, read_text
from agent.vpn.openvpn.client_file import OpenVpnFile, Remote, parse_openvpn
from agent.vpn.wireguard.wg_quick import WireGuardFile, parse_wg_quick
from model.endpoint import Endpoint

_OPTION: Final = "--tunnel"
_SECTION: Final = re.compile(r"^\s*\[\s*interface\s*\]", re.IGNORECASE | re.MULTILINE)
_REMOTE: Final = re.compile(r"^\s*(--)?(remote|client|proto|dev)\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class WireGuardServer:
    """The server of one wg-quick file."""

    file: WireGuardFile

    @property
    def contacts(self) -> tuple[tuple[Endpoint, str], ...]:
        """Where it is spoken to, and by which protocol."""
        return tuple((peer.endpoint, "udp") for peer in self.file.peers if peer.endpoint is not None)


@dataclass(frozen=True, slots=True)
class OpenVpnServer:
    """One remote of an OpenVPN file."""

    file: OpenVpnFile
    remote: Remote
    credentials: Credentials | None

    @property
    def contacts(self) -> tuple[tuple[Endpoint, str], ...]:
        """Where it is spoken to, and by which protocol."""
        return ((self.remote.endpoint, self.remote.protocol),)


Server: TypeAlias = WireGuardServer | OpenVpnServer


def read_servers(paths: Sequence[Path], credentials: Path | None) -> tuple[Server, ...]:
    """Every server that the files name, in their order. Raises BadTunnelFile and BadSetting."""
    known = None if credentials is None else read_credentials("--tunnel-credentials", credentials, colons=True)
    servers = tuple(server for path in paths for server in _servers(path, known))
    if known is not None and not any(isinstance(each, OpenVpnServer) and each.credentials for each in servers):
        raise BadSetting("--tunnel-credentials: no file of --tunnel asks for them", hint="leave them out")
    return servers


def _servers(path: Path, credentials: Credentials | None) -> Iterator[Server]:
    text = read_text(path, _OPTION)
    if is_openvpn(path.name, text):
        file = parse_openvpn(text, path.name)
        if file.needs_credentials and credentials is None:
            hint = "add --tunnel-credentials FILE"
            raise BadTunnelFile(path.name, "asks for a user name and password", hint=hint)
        for remote in file.remotes:
            yield OpenVpnServer(file, remote, credentials if file.needs_credentials else None)
    else:
        yield WireGuardServer(parse_wg_quick(text, path.name))


def is_openvpn(name: str, text: str) -> bool:
    """Whether a file is OpenVPN's rather than wg-quick's: by its extension, else by what it says. Raises BadTunnelFile."""
    if name.lower().endswith(".ovpn"):
        return True
    if _SECTION.search(text):
        return False
    if _REMOTE.search(text):
        return True
    raise BadTunnelFile(name, "is neither wg-quick's nor OpenVPN's", hint="name a wg-quick file or an .ovpn file")
