"""The `exitplane` command."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from cli.error_exit import exit_on_error

_COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "serve": ("cli.serve:serve", "Run the control plane: the REST API, the xDS server and the keeper."),
    "demo": (
        "cli.demo:demo",
        "Run a complete Exitplane on this machine: control plane, gateway, exits with tunnels, and a small internet.",
    ),
    "agent": ("cli.agent:agent", "Enrol a proxy, run its Envoy, and report the state of both to the control plane."),
    "bootstrap": ("cli.bootstrap:bootstrap", "Print the bootstrap configuration of an Envoy that no agent runs."),
    "token": (
        "cli.token:token",
        "Create, list and revoke join tokens, with which agents enrol: one agent within an hour, unless you say otherwise.",
    ),
    "db": ("cli.db:db", "Manage the database: check and upgrade its schema, back it up and restore it."),
    "status": (
        "cli.status:status",
        "Show exits and proxies with their states, and the changes that are not rolled out to all proxies.",
    ),
    "release": (
        "cli.rollout:release",
        "Release a change-set to all proxies of its group, whoever rejected it. The audit records it.",
    ),
    "get": ("cli.collections:get", "List the items of a collection, or show one of them."),
    "delete": ("cli.collections:delete", "Delete items of a collection: all of them in one revision, or none."),
    "drain": (
        "cli.exits:drain",
        "Stop sending new requests to exits; open tunnels continue until their clients close them.",
    ),
    "enable": (
        "cli.exits:enable",
        "Enable exits that were drained or disabled; they serve again after their next heartbeat.",
    ),
    "disable": ("cli.exits:disable", "Take exits out of service."),
    "history": (
        "cli.exits:history",
        "Show the states that an exit went through, with reasons, and its uptime compared with the time before.",
    ),
    "best": (
        "cli.exits:best",
        "Show the best exit of a country at the moment: healthy, near, and with few open requests.",
    ),
    "rotate": ("cli.exits:rotate", "Make an exit take another server or address, and wait until it has."),
    "speed-test": ("cli.exits:speed_test", "Measure the speed of an exit's tunnel."),
    "logs": ("cli.exits:logs", "Show the newest log lines of an exit's agent and its Envoy."),
    "containers": (
        "cli.containers:containers",
        "List, start, stop and restart the containers of exits, and show their logs.",
    ),
    "apply": ("cli.apply:apply", "Make the declared state match files: all changes in one revision, or none."),
    "diff": (
        "cli.apply:diff",
        "Show what `apply` would change. Exits with 0 for no difference, 1 for a difference, and 2 for an error.",
    ),
    "export": (
        "cli.apply:export",
        "Print the declared state as YAML that `apply` accepts, in a stable order.",
    ),
    "explain": (
        "cli.explain:explain",
        "Show which listener, route, pool and exits would serve a request, in order, and why others would not.",
    ),
    "init": (
        "cli.init:init",
        "Create the first admin, in the database of this host's control plane or in that of EXITPLANE_DATABASE_URL.",
    ),
    "login": (
        "cli.login:login",
        "Log in to the API. Tokens are stored below XDG_CONFIG_HOME, readable by you alone, and renewed as needed.",
    ),
    "logout": ("cli.login:logout", "End the session at the API, and remove its tokens from this host."),
    "whoami": ("cli.login:whoami", "Show your name, role and fleets, as the API sees you."),
    "encryption": (
        "cli.encryption:encryption",
        "Create and rotate the keys that seal the secrets in the database, and see which of them are in use.",
    ),
    "ca": (
        "cli.ca:ca",
        "Print the certificate of the control plane's authority, from this host's database or that of EXITPLANE_DATABASE_URL.",
    ),
    "doctor": (
        "cli.doctor:doctor",
        "Find weak settings, on the host of the control plane, or beside an agent, and say what to do.",
    ),
    "certificates": (
        "cli.certificates:certificates",
        "List, upload, issue, watch and delete the certificates of TLS listeners.",
    ),
    "secret": (
        "cli.secret:secret",
        "Create and revoke the secrets with which users log in at listeners that authenticate.",
    ),
    "messages": (
        "cli.messages:messages",
        "Add channels and rules of messages, send a test message, and see what was delivered.",
    ),
    "audit": ("cli.audit:audit", "Verify the audit log, or export it."),
}
"""Commands by name: `module:attribute`, and the first paragraph of the help.

A command is imported only when it is called, because imports take longer than most commands. `--help` and the completion of
command names import none.
"""


class _LazyGroup(TyperGroup):
    """A group that lists the commands of _COMMANDS, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name=name, help=text) for name, (_, text) in _COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # typer does not export click's types
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(name), rest


def _load(name: str) -> Any:
    """Import a command and build it."""
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
    """Hold the options that belong to no command, and keep the group open."""


def main() -> None:
    """Run the console script."""
    # gRPC's core would log to standard error; it raises what matters. Set it to "error" to see more.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # gRPC's core would stop and start its threads at every fork, and no child uses gRPC
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # pydantic would read the metadata of every distribution to find plugins. Set it to "false" to use some.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    # a core file would have the keys that a process holds; `prlimit --core` allows one
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with exit_on_error():
        app(prog_name="exitplane")
