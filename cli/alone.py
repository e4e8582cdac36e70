"""An agent in a process that holds nothing else: what reads its options takes more memory than being one does."""

from __future__ import annotations

import os
import pickle
import sys
from typing import NoReturn

from agent.config.settings import AgentSettings


def serve(settings: AgentSettings) -> NoReturn:
    """Become that process: it has this one's id, environment and streams, and its memory is a new one.

    The settings go along in a file that only the two can see, because they may hold secrets. The options are repeated for whoever
    looks at the list of processes.
    """
    told = os.memfd_create("settings", 0)
    with os.fdopen(told, "wb", closefd=False) as file:
        pickle.dump(settings, file)
    os.lseek(told, 0, os.SEEK_SET)
    sys.stderr.flush()
    # -P: the folder that this command was called in may not hold what it imports
    program = [sys.executable, "-P", "-m", "cli.agent_process", str(told), *sys.argv[1:]]
    os.execv(sys.executable, program)  # noqa: S606
