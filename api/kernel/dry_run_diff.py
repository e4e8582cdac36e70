"""What a write would change: of which proxies' configuration, and how. The API translates as the xDS server does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from api.kernel.dry_run import DryRunDiff, ProxyDifference, ResourceDifference
from model.repositories import worlds
from model.unit_of_work import UnitOfWork
from model.world import Change, World
from xds.snapshot.order import ADDITIONS
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.json_view import as_json
from xds.translate.scopes import ResourceId, Scope, scope_keys, scopes_of

_CONTENTS_MAX: Final = 50
"""Of so many resources the content is shown, and of the others that they differ."""
_ORDER: Final = {type_url: place for place, type_url in enumerate(ADDITIONS)}


async def compare(unit: UnitOfWork, world: World) -> DryRunDiff:
    """What the unit, as far as it got, would change in a World."""
    touched = list(unit.touched)
    changes = await worlds.read_touched(unit.session, touched)
    later = world.changed(world.revision + 1, changes)
    shown = (f"{kind} {key} {unit.touched[kind, key].action or 'changed'}" for kind, key in touched)
    return DryRunDiff(changed=list(shown), configuration=_configuration(changes, world, later))


def _configuration(changes: Iterable[Change], old: World, new: World) -> list[ProxyDifference]:
    changes = list(changes)
    keys = {key for change in changes for key in scope_keys(change, old, new)}
    proxies: dict[Scope, set[UUID]] = defaultdict(set)
    for world in (old, new):
        for proxy in world.proxies.values():
            for scope in scopes_of(proxy, world):
                if scope.key in keys:
                    proxies[scope].add(proxy.id)
    found = [(scope, _resources(scope, changes, old, new)) for scope in sorted(proxies, key=lambda scope: scope.key)]
    contents = iter(range(_CONTENTS_MAX))
    return [
        ProxyDifference(
            proxies=sorted(proxies[scope]),
            resources=[
                _show(resource, before, after, with_content=next(contents, None) is not None)
                for resource, before, after in differing
            ],
        )
        for scope, differing in found
        if differing
    ]


def _resources(
    scope: Scope, changes: Iterable[Change], old: World, new: World
) -> list[tuple[ResourceId, bytes | None, bytes | None]]:
    touched = {resource for change in changes for resource in scope.touched(change, old, new)}
    found = []
    for resource in sorted(touched, key=lambda each: (_ORDER.get(each.type_url, 0), each.name)):
        before, after = (_encoded(scope, world, resource) for world in (old, new))
        if before != after:
            found.append((resource, before, after))
    return found


def _encoded(scope: Scope, world: World, resource: ResourceId) -> bytes | None:
    message = scope.translate(world, resource)
    return None if message is None else encode(message)


def _show(resource: ResourceId, before: bytes | None, after: bytes | None, *, with_content: bool) -> ResourceDifference:
    shown = with_content and resource.type_url != names.SECRET
    return ResourceDifference(
        type_url=resource.type_url,
        name=resource.name,
        change="added" if before is None else "removed" if after is None else "changed",
        before=as_json(resource.type_url, before) if shown and before is not None else None,
        after=as_json(resource.type_url, after) if shown and after is not None else None,
    )
