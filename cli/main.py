"""The `exitplane` command."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from cli.error_exit import told_in_short

_COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "serve": ("cli.serve:serve", "Run the control plane: the REST API, the xDS server and the keeper."),
    "demo": (
        "cli.demo_command:demo",
        "Run a whole Exitplane on this machine: control plane, gateway, exits behind real tunnels, and a small internet.",
    ),
    "agent": ("cli.agent:agent", "Enrol a proxy, run its Envoy, and report the state of both to the control plane."),
    "bootstrap": ("cli.bootstrap:bootstrap", "Print the bootstrap that an Envoy of this role starts from."),
    "token": (
        "cli.token:token",
        "Print a join token: agents of one role in one fleet enrol with it, as often as needed, until it expires.",
    ),
    "db": ("cli.db:db", "Look at the database's schema, bring it up to date, back it up and restore it."),
    "status": (
        "cli.status:status",
        "Show the exits and proxies, their states and why, and which changes are tried or held back.",
    ),
    "get": ("cli.collections:get", "Show what is in a collection, or one thing of it."),
    "delete": ("cli.collections:delete", "Delete things of a collection: all that are named in one revision, or none."),
    "drain": (
        "cli.exits:drain",
        "Offer exits to nobody any more; their open tunnels go on until their clients are done.",
    ),
    "enable": ("cli.exits:enable", "Let exits that were drained or disabled serve again, once they are heard of."),
    "disable": ("cli.exits:disable", "Take exits out."),
    "history": (
        "cli.exits:history",
        "Show what an exit went through: its states with their reasons, and how that compares with the time before.",
    ),
    "best": ("cli.exits:best", "Show which exit of a country is the best now: healthy, with little to do, and near."),
    "rotate": ("cli.exits:rotate", "Have an exit take another server or address, and wait until it has."),
    "speed-test": ("cli.exits:speed_test", "Have an exit measure how fast its tunnel is."),
    "logs": ("cli.exits:logs", "Show the newest lines of what an exit's agent and its Envoy log."),
    "containers": ("cli.containers:containers", "Exits that run in containers."),
    "apply": ("cli.apply:apply", "Make what is declared what files say: all of it in one revision, or nothing."),
    "diff": (
        "cli.apply:diff",
        "Tell what `apply` would do. Ends with 0 when there is no difference, 1 when there is one, and 2 in trouble.",
    ),
    "export": (
        "cli.apply:export",
        "Print what is declared, as YAML that `apply` takes, in an order that does not change.",
    ),
    "explain": (
        "cli.explain:explain",
        "Tell which listener, route, pool and exits would serve a request, in which order, and why others would not.",
    ),
    "init": (
        "cli.init:init",
        "Make the first admin, in the database of this host's control plane or that of EXITPLANE_DATABASE_URL.",
    ),
    "login": (
        "cli.login:login",
        "Log in to the API. What it gives is kept for you alone, below XDG_CONFIG_HOME, and renewed as needed.",
    ),
    "logout": ("cli.login:logout", "End the session, here and at the API."),
    "whoami": ("cli.login:whoami", "Show who you are to the API, and what you may."),
    "audit": ("cli.audit:audit", "Check the audit, or export it."),
}
"""Commands by name: where each is, and the first paragraph of its help.

A command is imported when it is called, so that none waits for what another needs: `--help` and completion import none at all.
"""


class _LazyGroup(TyperGroup):
    """Lists commands by the table above, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name=name, help=text) for name, (_, text) in _COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # typer keeps its click to itself
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(name), rest


def _load(name: str) -> Any:
    """Import a command."""
    module, _, attribute = _COMMANDS[name][0].partition(":")
    found: typer.Typer | Callable[..., None] = getattr(import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(name)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
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
        from model.version import exitplane_version

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
    # no child of ours uses gRPC, whose core would stop and start its threads at every fork
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # pydantic would read the metadata of every distribution to look for plugins; we have none. Set it to "false" to have yours.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    with told_in_short():
        app(prog_name="exitplane")
