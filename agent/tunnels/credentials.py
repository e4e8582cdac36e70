"""A provider's user name and password, out of a file that nobody else may read."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.endpoints import BadSetting

_OPTION: Final = "--tunnel-credentials"
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str = field(repr=False)
    password: str = field(repr=False)


def read_credentials(path: Path) -> Credentials:
    """Read a file of two lines. Raises BadSetting, which does not show them."""
    mend = "write the user name in the first line and the password in the second"
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BadSetting(f"{_OPTION} {path} cannot be read ({error.strerror})", mend=mend) from error
    if mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        raise BadSetting(f"{_OPTION} {path} is open to others (mode {mode:03o})", mend=f"chmod 600 {path}")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise BadSetting(f"{_OPTION} {path} is not text", mend=mend) from None
    while lines and not lines[-1].strip():
        lines.pop()
    if len(content) > _MAX_BYTES or len(lines) != 2 or not all(line.strip() and line.isprintable() for line in lines):
        raise BadSetting(f"{_OPTION} {path} does not hold two lines", mend=mend)
    return Credentials(lines[0].strip(), lines[1])
