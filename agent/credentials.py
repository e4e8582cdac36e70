"""Secrets that an agent is given in files which nobody else may read."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.endpoints import BadSetting

_MAX_BYTES: Final = 4096
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password."""

    username: str
    password: str = field(repr=False)


def basic(known: Credentials) -> str:
    """The value of a header that shows them (RFC 7617, in UTF-8)."""
    return "Basic " + b64encode(f"{known.username}:{known.password}".encode()).decode()


def read_credentials(option: str, path: Path) -> Credentials:
    """Read a file of two lines: the user name, the password. Raises BadSetting, which names `option`."""
    lines = _read(option, path).splitlines()
    if len(lines) != 2 or not all(line and line.isprintable() for line in lines) or ":" in lines[0]:
        mend = "write the user name (without a colon) into its first line and the password into its second"
        raise BadSetting(f"{option} {path} does not hold two lines of text", mend=mend)
    return Credentials(*lines)


def read_key(option: str, path: Path) -> str:
    """Read a file that holds a key. Raises BadSetting, which names `option`."""
    key = _read(option, path).strip()
    if not key or not key.isprintable() or not key.isascii():
        raise BadSetting(f"{option} {path} holds no key", mend="write the key into its one line")
    return key


def _read(option: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_BYTES + 1)
        if mode & _OTHERS:
            raise BadSetting(f"{option} {path} may be read by others", mend=f"chmod 600 {path}")
        if len(content) > _MAX_BYTES:
            raise BadSetting(f"{option} {path} is too long", mend="name the file that was meant")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadSetting(
            f"{option} {path} cannot be read ({reason})", mend="name a file that the agent may read"
        ) from error
