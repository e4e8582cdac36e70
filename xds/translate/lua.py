"""The Lua scripts of Envoy filters: files in envoy/, with generated tables ahead of their text."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

_FOLDER: Final = files("xds") / "envoy"
_PLAIN: Final = re.compile(rb"[^A-Za-z0-9 ._/-]")


def read_script(name: str) -> str:
    """Read a script without its comment lines, so that a changed comment neither travels nor drains a listener."""
    lines = (_FOLDER / f"{name}.lua").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.strip() and not line.lstrip().startswith("--"))


def quote(text: str) -> str:
    """Quote any string for Lua."""
    return '"' + _PLAIN.sub(lambda found: b"\\%03d" % found[0][0], text.encode()).decode() + '"'
