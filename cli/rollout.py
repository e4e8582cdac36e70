"""The command `exitplane release`, which releases a change-set in spite of rejections."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.api_command import DEFAULT_API, Api, AsJson, print_json, run
from cli.terminal import printable


def release(
    *,
    change_set: Annotated[str, typer.Argument(metavar="CHANGE-SET", help="Its id, from `exitplane status`.")],
    fleet: Annotated[str, typer.Option(help="The fleet, by name or id.")],
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Release a change-set to all proxies of its group, whoever rejected it. The audit records it."""
    path = "/fleets/{fleet}/rollout/change-sets/{change_set}/release"
    rollout = run(api, lambda client: client.json.put(path, fleet, change_set))
    if as_json:
        print_json(rollout)
        return
    print(printable(f"{change_set} is released to all proxies of its group"))
