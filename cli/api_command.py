"""What commands that ask the API have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from cli.credentials import authorization
from client.errors import ApiRefused
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from client import Client

T = TypeVar("T")
HERE: Final = "http://127.0.0.1:8000"
Api = Annotated[str, typer.Option("--api", envvar="EXITPLANE_API", help="Where the API is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Fleet = Annotated[str | None, typer.Option(help="The fleet, by its name or id.")]


class WouldShrink(ExitplaneError):
    code = "would_shrink"


def run(api: str, do: Callable[[Client], Awaitable[T]]) -> T:
    """Do something with the API at an address, with the credentials that there are for it."""
    import asyncio

    from client import Client

    shown = authorization(api)

    async def done() -> T:
        async with Client(api, shown) as client:
            return await do(client)

    try:
        return asyncio.run(done())
    except ApiRefused as refused:
        if refused.code != "would_shrink":
            raise
        raise WouldShrink(refused.message, hint="add --approve shrink if it is meant") from refused


def print_json(value: Any) -> None:
    """JSON for programs, and for people who look at it."""
    print(as_json_text(value))


def as_json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def tell(error: ExitplaneError) -> None:
    """What went wrong, a line for each thing."""
    for line in str(error).splitlines():
        print(f"exitplane: {line}", file=sys.stderr)
