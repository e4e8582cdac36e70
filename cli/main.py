"""The `exitplane` command."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.ending import told_in_short
from model.version import exitplane_version

# command -> where it is. Imported when it is called: an agent needs neither SQLAlchemy nor gRPC in its memory.
_COMMANDS = {
    "serve": "cli.serve:serve",
    "demo": "cli.demo.command:demo",
    "agent": "cli.agent:agent",
    "bootstrap": "cli.bootstrap:bootstrap",
    "token": "cli.token:token",
    "db": "cli.db:db",
    "status": "cli.status:status",
    "get": "cli.collections:get",
    "delete": "cli.collections:delete",
    "drain": "cli.exits:drain",
    "enable": "cli.exits:enable",
    "disable": "cli.exits:disable",
    "history": "cli.exits:history",
    "best": "cli.exits:best",
    "rotate": "cli.exits:rotate",
    "speed-test": "cli.exits:speed_test",
    "logs": "cli.exits:logs",
    "containers": "cli.containers:containers",
    "apply": "cli.apply:apply",
    "diff": "cli.apply:diff",
    "export": "cli.apply:export",
    "explain": "cli.explain:explain",
    "init": "cli.init:init",
    "login": "cli.login:login",
    "logout": "cli.login:logout",
    "whoami": "cli.login:whoami",
    "audit": "cli.audit:audit",
}


class _LazyGroup(TyperGroup):
    """Finds commands by name and imports only the one that is called (all of them for `--help`)."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's
        return [*_COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - likewise; typer keeps its click to itself
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        found: typer.Typer | Callable[..., None] = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Exitplane: ask a gateway for a country, leave through a verified VPN exit there, or not at all.",
    epilog="Start with `exitplane demo`.",
)


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer's signature
    if value:
        print(f"exitplane {exitplane_version()}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Holds the group open, and what is said of no command."""


def main() -> None:
    """The console script: an error that Exitplane knows is one line and status 1."""
    # gRPC's core would write to stderr beside our own words; what matters is raised. Set it to "error" to see more.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with told_in_short():
        app(prog_name="exitplane")
