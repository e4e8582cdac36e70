"""An agent in a process that holds nothing else: what reads its options takes more memory than being one does."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Final, NoReturn

from agent.settings import AgentSettings

_PROGRAM: Final = Path(__file__).with_name("agent_process.py")


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
    # -P: neither the folder of that file nor the one that this command was called in may hold what it imports
    os.execv(sys.executable, [sys.executable, "-P", str(_PROGRAM), str(told), *sys.argv[1:]])  # noqa: S606
