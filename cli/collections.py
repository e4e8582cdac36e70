"""`exitplane get` and `exitplane delete`: what is in the collections of the API."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from cli.api_command import HERE, Api, AsJson, Fleet, print_json, run
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from rich.table import Table

    from client import Client
    from client.json_client import Item

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "fleets": ("name", "listener", "created_at"),
    "pools": ("fleet", "name", "country", "city", "only_by_name"),
    "exits": ("fleet", "pool", "name", "address", "port", "locality", "state", "state_reason"),
    "proxies": ("fleet", "role", "name", "locality", "connected"),
    "listeners": ("fleet", "name", "address", "port", "country", "pool", "certificate"),
    "routes": ("fleet", "position", "name", "enabled", "explanation"),
    "users": ("fleet", "name", "group", "plan"),
    "plans": ("fleet", "name", "bandwidth_bps", "requests_per_minute", "tunnels", "monthly_bytes"),
    "certificates": ("fleet", "name", "server_names", "expires_at"),
    "operators": ("name", "role", "fleets", "disabled", "last_login_at"),
    "api-keys": ("name", "role", "scopes", "expires_at", "last_used_at"),
    "audit-events": ("sequence", "at", "action", "kind", "object_id", "actor_id"),
}
"""What a table shows of each."""
_NEVER_DELETED: Final = frozenset({"audit-events"})
_DELETED_ONE_BY_ONE: Final = frozenset({"api-keys", "proxies"})
_PAGE: Final = 1_000
_COMPLETED_MAX: Final = 100
_COMPLETION_S: Final = 3.0


class UnknownCollection(ExitplaneError):
    code = "unknown_collection"


class BadFilter(ExitplaneError):
    code = "bad_wish"


class NotConfirmed(ExitplaneError):
    code = "not_confirmed"


def _complete_collection(incomplete: str) -> list[str]:
    return [name for name in _COLUMNS if name.startswith(incomplete)]


def _complete_ref(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names that there are; none when the API is not there, or too slow for somebody who waits."""
    api, name = ctx.params.get("api") or HERE, ctx.params.get("collection") or ""

    import asyncio

    async def names(client: Client) -> list[str]:
        async with asyncio.timeout(_COMPLETION_S):
            query = {"name": f"{incomplete}*"} if incomplete else {}
            items, _ = await client.plain.page(_known(name), limit=_COMPLETED_MAX, **query)
        return sorted({each["name"] for each in items})

    try:
        return run(api, names)
    except (ExitplaneError, TimeoutError, KeyError):
        return []


Name = Annotated[
    str,
    typer.Argument(metavar="COLLECTION", help=f"One of {', '.join(_COLUMNS)}.", autocompletion=_complete_collection),
]


def get(
    *,
    collection: Name,
    ref: Annotated[
        str | None,
        typer.Argument(metavar="[REF]", help="One of them, by its name or id.", autocompletion=_complete_ref),
    ] = None,
    fleet: Fleet = None,
    which: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="FIELD=VALUE", help="Only those; fields are those of the API. May be repeated."
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="FIELD", help="By this field; with - before it, from the last on.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many at most.")] = None,
    api: Api = HERE,
    as_json: AsJson = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML.")] = False,
) -> None:
    """Show what is in a collection, or one thing of it.

    For example:

      exitplane get exits --filter state=unreachable --sort -state_since

      exitplane get pools us --fleet demo --yaml

      exitplane get users --filter 'name=a*' --json | jq -r '.[].name'
    """
    if ref is not None:
        found = [run(api, lambda client: client.plain.read(_known(collection), ref, fleet=fleet))]
    else:
        query = {"sort": sort, **_filters(which or ())}
        if fleet is not None:
            query["fleet"] = fleet
        found = run(api, lambda client: _list(client, collection, query, limit))
    if as_json:
        print_json(found if ref is None else found[0])
    elif yaml:
        from cli.declared.yaml_output import as_yaml

        sys.stdout.write(as_yaml(found if ref is None else found[0]))
    else:
        from rich.console import Console

        Console(highlight=False).print(_table(found, _COLUMNS[collection]))


def delete(
    *,
    collection: Name,
    refs: Annotated[
        list[str], typer.Argument(metavar="REF…", help="Which of them, by names or ids.", autocompletion=_complete_ref)
    ],
    fleet: Fleet = None,
    approve: Annotated[
        Literal["shrink"] | None,
        typer.Option(help="shrink: yes, although it leaves less than half of the pools or healthy exits of a fleet."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Delete things of a collection: all that are named in one revision, or none.

    For example:

      exitplane delete exits us-1 us-2 --fleet demo --yes
    """
    if _known(collection) in _NEVER_DELETED:
        raise BadFilter(f"nothing of {collection} is deleted")
    if collection in _DELETED_ONE_BY_ONE and len(refs) > 1:
        raise BadFilter(f"{collection} are deleted one at a time", hint="name one")
    if not yes:
        if not sys.stdin.isatty():
            raise NotConfirmed("there is no terminal to ask whether it is meant", hint="add --yes")
        if not typer.confirm(f"Delete {', '.join(refs)} of {collection}?", err=True):
            raise NotConfirmed("nothing was done")
    run(api, lambda client: client.plain.delete(collection, *refs, fleet=fleet, approve=approve))
    if as_json:
        print_json({"deleted": refs})
    else:
        for each in refs:
            print(f"deleted {each}")


def _known(collection: str) -> str:
    """The name of a collection, if there is one of that name. Raises UnknownCollection."""
    if collection not in _COLUMNS:
        raise UnknownCollection(f"there is no collection {collection!r}", hint=f"name one of {', '.join(_COLUMNS)}")
    return collection


async def _list(client: Client, name: str, query: Mapping[str, Any], limit: int | None) -> list[Item]:
    found: list[Item] = []
    async for item in client.plain.list(_known(name), **query, limit=min(limit or _PAGE, _PAGE)):
        if len(found) == limit:
            break
        found.append(item)
    return found


def _filters(given: Iterable[str]) -> dict[str, str]:
    filters = {}
    for each in given:
        name, found, value = each.partition("=")
        if not found or not name:
            raise BadFilter(f"--filter {each}: this is no FIELD=VALUE", hint="write, for example, --filter country=us")
        filters[name] = value
    return filters


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> str:
    match value:
        case None | False | []:
            return ""
        case True:
            return "yes"
        case list():
            return ", ".join(map(str, value))
        case {"address": address, "port": port}:
            return f"{address}:{port}"
    return str(value)
