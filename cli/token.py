"""The command `exitplane token`, for the join tokens with which agents enrol."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from cli.api_command import DEFAULT_API, Api, AsJson, Fleet, print_json, run
from cli.terminal import printable
from model.entities import Role
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from client import Client
    from client.json_client import Item

token = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Create, list and revoke join tokens, with which agents enrol: one agent within an hour, unless you say otherwise.",
)
_COLLECTION: Final = "join-tokens"
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_COMPLETED_MAX: Final = 100
_COMPLETION_S: Final = 3.0


class BadTokenOption(ExitplaneError):
    code = "bad_token_option"


def _complete_ref(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the names of tokens; none while the API does not answer within _COMPLETION_S."""
    import asyncio

    async def names(client: Client) -> list[str]:
        async with asyncio.timeout(_COMPLETION_S):
            items, _ = await client.json.page(_COLLECTION, limit=_COMPLETED_MAX, name=f"{incomplete}*")
        return sorted({each["name"] for each in items if each["state"] == "valid"})

    try:
        return run(ctx.params.get("api") or DEFAULT_API, names)
    except (ExitplaneError, TimeoutError):
        return []


@token.command("create")
def create(
    *,
    role: Annotated[Role, typer.Option(help="The role of the proxies that may enrol with the token.")],
    fleet: Annotated[str, typer.Option(help="The fleet that they join, by name or id.")],
    name: Annotated[str | None, typer.Option(help="The token's name, for lists and the audit.")] = None,
    proxy: Annotated[
        str | None, typer.Option("--proxy", metavar="NAME", help="Let only a proxy of this name enrol.")
    ] = None,
    takes_over: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Let a new installation take this name over. The certificates of the present one end at once, and its agent stops.",
        ),
    ] = None,
    uses: Annotated[int | None, typer.Option(min=1, help="How many proxies may enrol; 1 by default.")] = None,
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="Let any number of proxies enrol until the token expires.")
    ] = False,
    expires_in: Annotated[
        str, typer.Option(metavar="TIME", help="The lifetime: a number with s, m, h or d; 30d at most.")
    ] = "1h",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the token into this file, readable by you alone.")
    ] = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Create a join token, and print it. It is shown only once, because only its digest is stored.

    Copy the file to the host of the agent, and pass it to `exitplane agent --token-file`.

    For example:

      exitplane token create --role exit --fleet home --output exit.token

      exitplane token create --role exit --fleet home --uses 12 --expires-in 1d --name rack-2

    An exit or gateway that was installed anew has lost its key, and gets its name back with:

      exitplane token create --role exit --fleet home --takes-over us-1 --output exit.token
    """
    if unlimited and uses is not None:
        raise BadTokenOption("--uses and --unlimited exclude each other", hint="name one of them")
    if takes_over is not None and (unlimited or uses is not None or proxy is not None):
        raise BadTokenOption(
            "a takeover is for one registration of one name", hint="leave --proxy, --uses and --unlimited out"
        )
    body: dict[str, object] = {
        "name": name,
        "fleet": fleet,
        "role": role,
        "proxy": takes_over or proxy,
        "takes_over": takes_over is not None,
        "uses": None if unlimited else uses or 1,
        "expires_in_s": _parse_lifetime(expires_in),
    }
    created = run(api, lambda client: client.json.create(_COLLECTION, body))
    if output is not None:
        _write_secret(output, created["token"])
    if as_json:
        print_json(created)
    elif output is None:
        print(created["token"])
        print(printable(f"exitplane: {_summarize(created)}"), file=sys.stderr)
    else:
        print(printable(f"{output}: {_summarize(created)}"))


@token.command("list")
def list_(*, fleet: Fleet = None, api: Api = DEFAULT_API, as_json: AsJson = False) -> None:
    """Show the join tokens, newest first: the uses left, when they expire, who made them, and their last use, in UTC.

    Tokens that ended stay in the list until an hour after they expire.
    """

    async def read(client: Client) -> list[Item]:
        from client import collect

        return await collect(client.json.list(_COLLECTION, fleet=fleet))

    found = run(api, read)
    if as_json:
        print_json(found)
    else:
        for each in found:
            print(printable(_describe(each)))


@token.command("revoke")
def revoke(
    *,
    refs: Annotated[
        list[str],
        typer.Argument(metavar="TOKEN…", help="The tokens, by ids or names.", autocompletion=_complete_ref),
    ],
    fleet: Fleet = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Revoke join tokens: nobody can enrol with them from now on. Proxies that enrolled with them stay.

    A name stands for all valid tokens of that name. For example:

      exitplane token revoke rack-2 --fleet home
    """

    async def do(client: Client) -> list[str]:
        revoked = []
        for ref in refs:
            for token_id in await _find(client, ref, fleet):
                await client.json.delete(_COLLECTION, token_id)
                revoked.append(token_id)
        return revoked

    done = run(api, do)
    if as_json:
        print_json({"revoked": done})
    else:
        for each in done:
            print(f"revoked {each}")


async def _find(client: Client, ref: str, fleet: str | None) -> list[str]:
    """Return the id itself, or those of the valid tokens of a name. Raises BadTokenOption when there is none."""
    try:
        return [str(UUID(ref))]
    except ValueError:
        found = [each async for each in client.json.list(_COLLECTION, name=ref, fleet=fleet)]
    valid = [each["id"] for each in found if each["state"] == "valid"]
    if not valid:
        raise BadTokenOption(f"there is no valid join token {ref!r}", hint="`exitplane token list` shows them")
    return valid


def _parse_lifetime(text: str) -> int:
    """Parse a lifetime such as 90m, in seconds. Raises BadTokenOption."""
    found = re.fullmatch(r"([0-9]{1,7})([smhd])", text.strip())
    if found is None:
        raise BadTokenOption(
            f"--expires-in {text}: this is not a time", hint="write a number with s, m, h or d, such as 90m"
        )
    return int(found[1]) * _UNITS_S[found[2]]


def _write_secret(path: Path, secret: str) -> None:
    """Write a secret into a file of mode 0600, which replaces an existing one. Raises BadTokenOption."""
    try:
        # mkstemp makes it readable by its owner alone
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secret}\n")
        Path(draft).replace(path)
    except OSError as error:
        raise BadTokenOption(
            f"--output {path} cannot be written ({error.strerror})",
            hint="name another file; revoke the token: `exitplane token list`",
        ) from error


def _summarize(shown: Mapping[str, Any]) -> str:
    uses = {None: "any number of registrations", 1: "one registration"}.get(
        shown["uses"], f"{shown['uses']} registrations"
    )
    name = f" of {shown['proxy']}" if shown["proxy"] else ""
    over = ", which it may take over" if shown["takes_over"] else ""
    return f"{uses}{name}{over}, until {_moment(shown['expires_at'])} UTC"


def _describe(shown: Item) -> str:
    """Describe a token in two lines, which fit into 80 columns unless names are long."""
    which = f"{shown['role']} {shown['proxy']}" if shown["proxy"] else f"any {shown['role']}"
    over = " (takeover)" if shown["takes_over"] else ""
    left = "any number" if shown["uses"] is None else f"{shown['uses_left']} of {shown['uses']}"
    used = (
        f"last by {shown['last_used_by']} at {_minute(shown['last_used_at'])}" if shown["last_used_at"] else "not used"
    )
    return (
        f"{shown['name']}: {which} of {shown['fleet']}{over}, {left} left, {shown['state']}, until {_minute(shown['expires_at'])}\n"
        f"    {shown['id']} by {shown['created_by'] or 'the control plane'}, {used}"
    )


def _minute(text: str) -> str:
    return _moment(text)[: -len(":00")]


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S}"
