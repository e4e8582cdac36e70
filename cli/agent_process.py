"""What `cli.alone` starts: `python -P -m cli.agent_process DESCRIPTOR …`, with an agent's settings in the file of that descriptor."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Be an agent."""
    # structlog takes it where it is, for tracebacks in colour, which are 4 MB that nobody sees
    sys.modules["rich"] = None  # type: ignore[assignment]
    import asyncio  # noqa: PLC0415 - here and below: what is imported is what this process is about
    import pickle  # noqa: PLC0415

    from agent import journal  # noqa: PLC0415
    from agent.service import serve  # noqa: PLC0415
    from cli.ending import told_in_short  # noqa: PLC0415
    from cli.logging import configure_logging  # noqa: PLC0415

    configure_logging(journal.keep)
    with told_in_short():
        with os.fdopen(int(sys.argv[1]), "rb") as file:
            settings = pickle.load(file)  # noqa: S301 - of the process that this one was
        asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
