"""What `cli.alone` starts: `python -P -m cli.agent_process DESCRIPTOR …`, with an agent's settings in the file of that descriptor."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Be an agent."""
    # structlog takes it where it is, for tracebacks in colour, which are 4 MB that nobody sees
    sys.modules["rich"] = None  # type: ignore[assignment]
    import asyncio
    import pickle

    from agent.control import log_buffer
    from agent.service import serve
    from cli.error_exit import exit_on_error
    from cli.logging import configure_logging

    configure_logging(log_buffer.keep)
    with exit_on_error():
        with os.fdopen(int(sys.argv[1]), "rb") as file:
            settings = pickle.load(file)  # noqa: S301 - of the process that this one was
        asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
