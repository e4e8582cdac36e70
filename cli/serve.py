"""The command `exitplane serve`, which imports the control plane only when it runs, so that `--help` is fast."""

from __future__ import annotations


def serve() -> None:
    """Run the control plane: the REST API, the xDS server and the keeper.

    Settings come from EXITPLANE_* environment variables. Without EXITPLANE_DATABASE_URL an embedded PostgreSQL runs in the
    state folder. Ctrl-C or SIGTERM stops all parts in order.
    """
    from cli.control_plane import run

    run()
