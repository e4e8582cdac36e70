"""`exitplane serve`: the control plane, imported when it runs, so that `--help` does not wait for it."""

from __future__ import annotations


def serve() -> None:
    """Run the control plane: the REST API, the xDS server and the keeper.

    Settings are read from EXITPLANE_* variables. Without EXITPLANE_DATABASE_URL an embedded PostgreSQL runs in the state
    folder. Ctrl-C or SIGTERM ends it in order.
    """
    from cli.control_plane import run

    run()
