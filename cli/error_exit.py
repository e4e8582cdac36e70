"""The exit of a command after an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from model.errors import ExitplaneError

_INTERRUPTED: Final = 130


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an ExitplaneError to standard error and exit with 1; exit with 130 after Ctrl-C."""
    try:
        yield
    except ExitplaneError as error:
        for line in str(error).splitlines():
            print(f"exitplane: {line}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
