"""Files with secrets that commands read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from model.errors import ExitplaneError

_OTHERS: Final = 0o077


class UnusableFile(ExitplaneError):
    code = "unusable_file"


def read_file(path: Path, content: str = "") -> str:
    """Read a file of text; `content` names what it should hold. Raises UnusableFile."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        hint = f"name a {content} file that you may read".replace("  ", " ")
        raise UnusableFile(f"{path} cannot be read ({error})", hint=hint) from error


def read_secret(path: Path, content: str = "") -> str:
    """Read a file that its owner alone can read. Raises UnusableFile."""
    text = read_file(path, content)
    mode = path.stat().st_mode
    if mode & _OTHERS:
        raise UnusableFile(f"others can read {path} (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}")
    return text
