"""The servers that the files of `--tunnel` name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog

from agent.config.credentials import Credentials, read_credentials
from agent.config.option_parsing import BadSetting
from agent.config.settings import TunnelServer
from agent.vpn.errors import BadTunnelFile
from agent.vpn.registry import recognise

log = structlog.get_logger()
_OPTION: Final = "--tunnel"
_FILE_MAX_BYTES: Final = 65_536
_SECRET: Final = re.compile(
    r"^\s*(?:(?:PrivateKey|PresharedKey)\s*=|<(?:key|tls-auth|tls-crypt(?:-v2)?|secret|pkcs12|auth-user-pass)>)",
    re.IGNORECASE | re.MULTILINE,
)
"""The lines with which keys and passwords begin, in wg-quick's files and OpenVPN's."""
_USE_ANOTHER: Final = "name the provider's own file"


def holds_secret(text: str) -> bool:
    """Tell whether a tunnel file holds keys or passwords itself."""
    return _SECRET.search(text) is not None


def read_servers(paths: Sequence[Path], credentials: Path | None) -> tuple[TunnelServer, ...]:
    """Read every server that the files name, in their order. Raises BadTunnelFile and BadSetting."""
    known = None if credentials is None else read_credentials("--tunnel-credentials", credentials, allow_colon=True)
    servers = tuple(server for path in paths for server in _read_file(path, known))
    if known is not None and not any(server.uses_credentials for server in servers):
        raise BadSetting("--tunnel-credentials: no file of --tunnel asks for them", hint="leave them out")
    return servers


def _read_file(path: Path, credentials: Credentials | None) -> Iterator[TunnelServer]:
    text = _read_text(path)
    yield from recognise(path.name, text).parse(text, path.name, credentials)


def _read_text(path: Path) -> str:
    """Read a file's text, without a byte order mark, and warn if others may read its keys too. Raises BadTunnelFile."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise BadTunnelFile(str(path), f"cannot be read ({error.strerror})", hint=f"see {_OPTION}") from error
    if len(content) > _FILE_MAX_BYTES:
        raise BadTunnelFile(str(path), f"is larger than {_FILE_MAX_BYTES} bytes", hint=_USE_ANOTHER)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTunnelFile(str(path), "is not text", hint=_USE_ANOTHER) from error
    if "\0" in text:
        raise BadTunnelFile(str(path), "is not text", hint=_USE_ANOTHER)
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and holds_secret(text):
        # a warning only, because container engines mount secrets for all users
        log.warning("agent.tunnel_file_open", file=str(path), mode=f"{mode:03o}", hint=f"chmod 600 {path}")
    return text
