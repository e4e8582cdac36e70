"""Secrets in files that only the agent's user may read."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.config.option_parsing import BadSetting

_MAX_BYTES: Final = 4096
_GROUP_AND_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password."""

    username: str
    password: str = field(repr=False)


def basic_authorization(credentials: Credentials) -> str:
    """Return the value of a header for Basic authentication (RFC 7617), in UTF-8."""
    return "Basic " + b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def read_credentials(option: str, path: Path, *, allow_colon: bool = False) -> Credentials:
    """Read a file of two lines, the user name and the password.

    HTTP allows no colon in a user name. Raises BadSetting, which names `option` and shows neither line.
    """
    content = _read(option, path)
    lines = content.rstrip().splitlines()
    is_valid = len(lines) == 2 and all(line.strip() and line.isprintable() for line in lines)
    if len(content) > _MAX_BYTES or not is_valid or (":" in lines[0] and not allow_colon):
        limit = "" if allow_colon else " (without a colon)"
        hint = f"write the user name{limit} in the first line and the password in the second"
        raise BadSetting(f"{option} {path} does not hold two lines of text", hint=hint)
    return Credentials(lines[0].strip(), lines[1])


def read_key(option: str, path: Path) -> str:
    """Read a file that holds a key. Raises BadSetting, which names `option`."""
    content = _read(option, path)
    key = content.strip()
    if len(content) > _MAX_BYTES or not key or not key.isprintable() or not key.isascii():
        raise BadSetting(f"{option} {path} holds no key", hint="write the key into its one line")
    return key


def _read(option: str, path: Path) -> str:
    """Read up to one byte more than is allowed. Raises BadSetting, also for a file that others may read."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES + 1).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadSetting(
            f"{option} {path} cannot be read ({reason})", hint="name a file that the agent may read"
        ) from error
    if mode & _GROUP_AND_OTHERS:
        raise BadSetting(f"{option} {path} is open to others (mode {mode:03o})", hint=f"chmod 600 {path}")
    return content
