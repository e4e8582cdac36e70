"""How a command ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from model.errors import ExitplaneError

_INTERRUPTED: Final = 130


@contextmanager
def told_in_short() -> Iterator[None]:
    """An error that Exitplane knows is what it says and status 1, and Ctrl-C is status 130."""
    try:
        yield
    except ExitplaneError as error:
        for line in str(error).splitlines():
            print(f"exitplane: {line}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
