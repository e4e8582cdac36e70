"""The commands `exitplane get` and `exitplane delete`, for the collections of the API."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from cli.api_command import DEFAULT_API, Api, AsJson, Fleet, print_json, run
from cli.terminal import add_row, console
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
    "listeners": ("fleet", "name", "address", "port", "country", "pool", "certificate", "authentication"),
    "routes": ("fleet", "position", "name", "enabled", "explanation"),
    "users": ("fleet", "name", "group", "plan", "enabled", "expires_at"),
    "plans": ("fleet", "name", "bandwidth_bps", "requests_per_minute", "tunnels", "monthly_bytes"),
    "certificates": ("fleet", "name", "source", "server_names", "expires_at", "warnings"),
    "channels": ("name", "service", "created_at"),
    "message-rules": ("name", "enabled", "events", "fleet", "pool", "exit", "for_s", "cooldown_s", "channels"),
    "messages": ("id", "created_at", "rule", "channel", "title", "state", "attempts", "error"),
    "operators": ("name", "role", "fleets", "disabled", "last_login_at"),
    "api-keys": ("name", "role", "scopes", "expires_at", "last_used_at"),
    "join-tokens": ("fleet", "role", "name", "proxy", "state", "uses_left", "expires_at", "last_used_by"),
    "audit-events": ("sequence", "at", "action", "kind", "object_id", "actor_id"),
}
"""The fields of each collection that a table shows."""
_NEVER_DELETED: Final = frozenset({"audit-events", "messages"})
_DELETED_ONE_BY_ONE: Final = frozenset({"api-keys", "join-tokens", "proxies"})
_PAGE: Final = 1_000
_COMPLETED_MAX: Final = 100
_COMPLETION_S: Final = 3.0


class UnknownCollection(ExitplaneError):
    code = "unknown_collection"


class BadFilter(ExitplaneError):
    code = "bad_filter"


class NotConfirmed(ExitplaneError):
    code = "not_confirmed"


def _complete_collection(incomplete: str) -> list[str]:
    return [name for name in _COLUMNS if name.startswith(incomplete)]


def _complete_ref(ctx: typer.Context, incomplete: str) -> list[str]:
    return complete_names(ctx, ctx.params.get("collection") or "", incomplete)


def complete_names(ctx: typer.Context, collection: str, incomplete: str) -> list[str]:
    """Complete the names of a collection's items; none while the API does not answer within _COMPLETION_S."""
    api = ctx.params.get("api") or DEFAULT_API

    import asyncio

    async def names(client: Client) -> list[str]:
        async with asyncio.timeout(_COMPLETION_S):
            query = {"name": f"{incomplete}*"} if incomplete else {}
            items, _ = await client.json.page(_check_collection(collection), limit=_COMPLETED_MAX, **query)
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
        typer.Argument(metavar="[REF]", help="One item, by name or id.", autocompletion=_complete_ref),
    ] = None,
    fleet: Fleet = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="FIELD=VALUE",
            help="Show only items whose field, as in the API, has this value. Repeatable.",
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Sort by this field; -FIELD reverses the order.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Show this many items at most.")] = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML.")] = False,
) -> None:
    """List the items of a collection, or show one of them.

    For example:

      exitplane get exits --filter state=unreachable --sort -state_since

      exitplane get pools us --fleet demo --yaml

      exitplane get users --filter 'name=a*' --json | jq -r '.[].name'
    """
    if ref is not None:
        found = [run(api, lambda client: client.json.read(_check_collection(collection), ref, fleet=fleet))]
    else:
        query = {"sort": sort, **_parse_filters(filters or ())}
        if fleet is not None:
            query["fleet"] = fleet
        found = run(api, lambda client: _list(client, collection, query, limit))
    if as_json:
        print_json(found if ref is None else found[0])
    elif yaml:
        from cli.declared.yaml_output import as_yaml

        sys.stdout.write(as_yaml(found if ref is None else found[0]))
    else:
        console().print(_table(found, _COLUMNS[collection]))


def delete(
    *,
    collection: Name,
    refs: Annotated[
        list[str], typer.Argument(metavar="REF…", help="The items, by names or ids.", autocompletion=_complete_ref)
    ],
    fleet: Fleet = None,
    approve: Annotated[
        Literal["shrink"] | None,
        typer.Option(help="shrink: allow a change that leaves less than half of a fleet's pools or healthy exits."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Delete items of a collection: all of them in one revision, or none.

    For example:

      exitplane delete exits us-1 us-2 --fleet demo --yes
    """
    if _check_collection(collection) in _NEVER_DELETED:
        raise BadFilter(f"{collection} cannot be deleted")
    if collection in _DELETED_ONE_BY_ONE and len(refs) > 1:
        raise BadFilter(f"{collection} are deleted one at a time", hint="name only one")
    if not yes:
        if not sys.stdin.isatty():
            raise NotConfirmed("there is no terminal to ask for confirmation", hint="add --yes")
        if not typer.confirm(f"Delete {', '.join(refs)} of {collection}?", err=True):
            raise NotConfirmed("nothing was changed")
    run(api, lambda client: client.json.delete(collection, *refs, fleet=fleet, approve=approve))
    if as_json:
        print_json({"deleted": refs})
    else:
        for each in refs:
            print(f"deleted {each}")


def _check_collection(collection: str) -> str:
    """Return the name of a collection. Raises UnknownCollection."""
    if collection not in _COLUMNS:
        raise UnknownCollection(f"there is no collection {collection!r}", hint=f"name one of {', '.join(_COLUMNS)}")
    return collection


async def _list(client: Client, name: str, query: Mapping[str, Any], limit: int | None) -> list[Item]:
    found: list[Item] = []
    async for item in client.json.list(_check_collection(name), **query, limit=min(limit or _PAGE, _PAGE)):
        if len(found) == limit:
            break
        found.append(item)
    return found


def _parse_filters(texts: Iterable[str]) -> dict[str, str]:
    filters = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise BadFilter(f"--filter {text}: this is not FIELD=VALUE", hint="write, for example, --filter country=us")
        filters[name] = value
    return filters


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        add_row(table, (_cell(row.get(column)) for column in columns))
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
