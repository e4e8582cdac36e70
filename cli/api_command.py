"""Options and helpers of the commands that call the API."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from cli.credentials import api_ca, authorization
from cli.terminal import printable
from client.errors import ApiRefused
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from client import Client

T = TypeVar("T")
DEFAULT_API: Final = "http://127.0.0.1:8000"
Api = Annotated[str, typer.Option("--api", envvar="EXITPLANE_API", help="The URL of the API.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Fleet = Annotated[str | None, typer.Option(help="The fleet, by name or id.")]


class WouldShrink(ExitplaneError):
    code = "would_shrink"


def run(api: str, do: Callable[[Client], Awaitable[T]]) -> T:
    """Run a coroutine with a client of the API at `api`, with the caller's credentials for it.

    Raises WouldShrink instead of the API's refusal of that code, and whatever `do` raises.
    """
    import asyncio

    from client import Client

    header = authorization(api)

    async def call() -> T:
        async with Client(api, header, ca=api_ca()) as client:
            return await do(client)

    try:
        return asyncio.run(call())
    except ApiRefused as refused:
        if refused.code != "would_shrink":
            raise
        raise WouldShrink(refused.message, hint="add --approve shrink to allow it") from refused


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(as_json_text(value))


def as_json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def print_error(error: ExitplaneError) -> None:
    """Print an error to standard error, each of its lines with the command's name before it."""
    for line in str(error).splitlines():
        print(printable(f"exitplane: {line}"), file=sys.stderr)
