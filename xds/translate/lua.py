"""The Lua that gateways run: files in envoy/, with values ahead of their text."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

_FOLDER: Final = files("xds") / "envoy"
_PLAIN: Final = re.compile(rb"[^A-Za-z0-9 ._/-]")


def read_script(name: str) -> str:
    """The text of a script."""
    return (_FOLDER / f"{name}.lua").read_text()


def quoted(text: str) -> str:
    """A string as Lua reads it, whatever it holds."""
    return '"' + _PLAIN.sub(lambda found: b"\\%03d" % found[0][0], text.encode()).decode() + '"'
