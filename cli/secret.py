"""The command `exitplane secret`, for the secrets with which users log in at gateways."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.api_command import DEFAULT_API, Api, AsJson, Fleet, print_json, run
from cli.collections import complete_names
from cli.terminal import printable

if TYPE_CHECKING:
    from client import Client

secret = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Create and revoke the secrets with which users log in at listeners that authenticate.",
)
_PATH: Final = "/users/{user}/secrets"


def _complete_user(ctx: typer.Context, incomplete: str) -> list[str]:
    return complete_names(ctx, "users", incomplete)


User = Annotated[str, typer.Argument(metavar="USER", help="The user, by name or id.", autocompletion=_complete_user)]


@secret.command("create")
def create(*, user: User, fleet: Fleet = None, api: Api = DEFAULT_API, as_json: AsJson = False) -> None:
    """Create a secret of a user, and print it. It is shown only once, because only its hash is stored.

    A user may have two: give clients the new one, then revoke the old one.

    For example:

      exitplane secret create alice --fleet demo

      curl -x http://alice-country-us:SECRET@gateway.example:8080 https://example.com
    """
    created = run(api, lambda client: client.json.post(_PATH, user, fleet=fleet))
    if as_json:
        print_json(created)
    else:
        print(created["secret"])
        print(printable(f"exitplane: the secret {created['id']} of {user}"), file=sys.stderr)


@secret.command("revoke")
def revoke(
    *,
    user: User,
    secret_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the secret: its first character.")],
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Revoke a secret of a user: nobody logs in with it from now on. Tunnels that are open stay open.

    `exitplane get users USER --json` lists the secrets that are valid. For example:

      exitplane secret revoke alice a --fleet demo
    """

    async def do(client: Client) -> None:
        await client.users.revoke_secret(user, secret_id, fleet=fleet)

    run(api, do)
    if as_json:
        print_json({"revoked": secret_id})
    else:
        print(printable(f"revoked the secret {secret_id} of {user}"))
