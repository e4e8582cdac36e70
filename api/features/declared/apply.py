"""The plan that applies one document: what exists, what is deleted, created and changed, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from sqlalchemy import Text, cast, or_, select, update
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel import col

from api.features.certificates.service import CERTIFICATES
from api.features.declared.queries import ORDER, AnyCollection, as_request, diff, lock_rows, read_rows, show_rows
from api.features.declared.schemas import AppliedOut, Declared, StepOut
from api.features.exits.service import EXITS
from api.features.fleets.service import FLEETS
from api.features.listeners.service import LISTENERS
from api.features.plans.service import PLANS
from api.features.pools.service import POOLS
from api.features.routes.service import ROUTES
from api.features.users.service import USERS
from api.http.field_errors import FieldError
from api.http.field_types import as_id
from api.http.problems import Problem, locate_errors, unknown
from api.kernel.shrink_guard import require_shrink_approval
from api.kernel.writes import WriteContext
from model.entities import FIRST_LISTENER
from model.repositories import declared
from model.tables import FleetRow, ListenerRow, PlanRow, PoolRow, ProxyRow, ServerCertificateRow

_ONE_BY_ONE: Final = (FLEETS, CERTIFICATES, ROUTES)
"""Collections whose items are several rows that refer to each other."""
_WITH_SECRETS: Final = (EXITS, CERTIFICATES)
"""Collections with fields that are not shown."""
_REFERRED_TO: Final = (POOLS, PLANS, CERTIFICATES, FLEETS)
"""Collections that others refer to, in the order of deletion after all others."""
_REFERENCES: Final[Mapping[AnyCollection, Mapping[str, type[Any]]]] = {
    LISTENERS: {"pool": PoolRow, "certificate": ServerCertificateRow},
    EXITS: {"pool": PoolRow},
    USERS: {"plan": PlanRow},
}
"""Fields that refer to rows of the same fleet, with the tables of these rows."""
_UNIQUE: Final[Mapping[AnyCollection, tuple[str, ...]]] = {
    POOLS: ("country", "city", "only_by_name"),
    LISTENERS: ("address", "port"),
}
"""Fields, in addition to the name, that are unique within a fleet and that two items may exchange."""
_PARKED: Final[Mapping[AnyCollection, str]] = {POOLS: "only_by_name", LISTENERS: "address"}
"""The column that holds another value while items exchange theirs."""
_YIELD_EVERY: Final = 50
_IDS_AT_ONCE: Final = 10_000

Key: TypeAlias = tuple[str, str]
"""The name of an item's fleet (empty for a fleet itself) and the name of the item."""
Action: TypeAlias = Literal["created", "changed", "deleted"]


@dataclass(frozen=True, slots=True)
class DeclaredItem:
    """An item of the document, with the JSON pointer to it."""

    pointer: str
    request: Any


@dataclass(slots=True)
class ExistingItem:
    """A stored item. `declared` is the request that would declare it as it is."""

    row: Any
    declared: Any
    parked: bool = False


@dataclass(frozen=True, slots=True)
class _LoadedReferences:
    """The rows that a batch refers to, by table, fleet, and name or id.

    It keeps the rows alive, so that the session answers lookups of their ids without a statement.
    """

    rows: Mapping[tuple[type[Any], UUID, str], Any]

    def resolve(self, collection: AnyCollection, fleet: FleetRow, request: Any) -> Any:
        """Replace the names in a request by ids. A request with an unknown name stays as it is, for its error message."""
        ids = {"fleet": str(fleet.id)}
        for name, table in _REFERENCES.get(collection, {}).items():
            ref = getattr(request, name)
            if ref is None:
                continue
            row = self.rows.get((table, fleet.id, ref))
            if row is None:
                return request
            ids[name] = str(row.id)
        return request.model_copy(update=ids)


@dataclass(slots=True)
class ApplyPlan:
    """The application of one document, for one use. After an error neither the plan nor `work` can be used again.

    With `batched` the rows of a collection go to PostgreSQL together, and the rows that they refer to are read together.
    """

    work: WriteContext
    document: Declared
    prune: bool
    only_fleet: str | None
    """The one fleet that the document may be about; None: any."""
    batched: bool
    steps: list[StepOut] = field(default_factory=list)
    unchanged: int = 0
    _fleets: dict[str, FleetRow] = field(default_factory=dict)
    """The stored fleets that the document is about, by name."""
    _declared: dict[str, dict[Key, DeclaredItem]] = field(default_factory=dict)
    """The items of the document, by the name of their collection."""
    _existing: dict[str, dict[Key, ExistingItem]] = field(default_factory=dict)
    """The stored items of the document's collections, by the name of their collection."""
    _affected: dict[str, set[UUID]] = field(default_factory=dict)
    """The ids of the stored items that change or go, by the name of their collection. Their rows are locked."""

    async def run(self) -> AppliedOut:
        """Apply the document. Raises Problem with the place in the document, or IntegrityError for a clash in a batch."""
        await self._lock_fleets()
        self._read_document()
        for collection in ORDER:
            if collection.name in self._declared:
                await self._read_existing(collection)
        async with require_shrink_approval(self.work, [fleet.id for fleet in self._fleets.values()]):
            await self._make_room()
            for collection in ORDER:
                if collection.name in self._declared:
                    await self._create_and_change(collection)
            for collection in (POOLS, PLANS, CERTIFICATES):
                await self._delete_superfluous(collection)
        # outside the block: an approval to shrink is deleted with its fleet
        await self._delete_superfluous(FLEETS)
        return AppliedOut(steps=self.steps, unchanged=self.unchanged)

    # -- the document --------------------------------------------------------------------------------------------------

    def _items(self) -> Iterator[tuple[AnyCollection, list[Any]]]:
        for collection in ORDER:
            items = getattr(self.document, collection.name)
            if items is not None:
                yield collection, items

    async def _lock_fleets(self) -> None:
        """Lock the stored fleets, so that nobody adds to them or applies another document to them meanwhile."""
        query = select(FleetRow).where(*FLEETS.visible(self.work.caller)).order_by(col(FleetRow.id)).with_for_update()
        if self.only_fleet is not None:
            query = query.where(_matches_fleet([self.only_fleet]))
        elif self.document.fleets is None or not self.prune:
            refs = {
                each.name if collection is FLEETS else each.fleet
                for collection, items in self._items()
                for each in items
            }
            query = query.where(_matches_fleet(refs - {None}))
        found = (await self.work.session.execute(query)).scalars()
        self._fleets = {fleet.name: fleet for fleet in found}

    def _read_document(self) -> None:
        names = {str(fleet.id): name for name, fleet in self._fleets.items()}
        names |= {name: name for name in [*self._fleets, *(each.name for each in self.document.fleets or ())]}
        for collection, items in self._items():
            known = self._declared[collection.name] = {}
            for index, request in enumerate(items):
                pointer = f"/{collection.name}/{index}"
                fleet = self._find_fleet_name(collection, request, names, pointer)
                key = ("" if collection is FLEETS else fleet, request.name)
                if key in known:
                    message = f"the document has this {collection.kind} twice"
                    raise _problem("twice", message, f"{pointer}/name", "name it once", request.name)
                known[key] = DeclaredItem(pointer, request)
        self._merge_first_listeners()

    def _find_fleet_name(self, collection: AnyCollection, request: Any, names: Mapping[str, str], pointer: str) -> str:
        """The name of the fleet that an item belongs to, or is. Raises Problem (422)."""
        name = "name" if collection is FLEETS else "fleet"
        ref, pointer = getattr(request, name), f"{pointer}/{name}"
        if ref is None:
            raise _problem("no_fleet", "an item of a document needs a fleet", pointer, "add `fleet`")
        if self.only_fleet is not None and names.get(ref, ref) != names.get(self.only_fleet, self.only_fleet):
            message = f"this belongs to another fleet than {self.only_fleet}, which ?fleet= names"
            raise _problem("other_fleet", message, pointer, "remove it, or leave ?fleet= out", ref)
        if ref not in names:
            raise unknown("fleet", pointer, ref)
        return names[ref]

    def _merge_first_listeners(self) -> None:
        """Drop a fleet's own listener where the document's listeners hold it too. Raises Problem when the two differ."""
        listeners = self._declared.get(LISTENERS.name)
        if listeners is None:
            return
        for (_, fleet), item in self._declared.get(FLEETS.name, {}).items():
            own, other = item.request.listener, listeners.get((fleet, FIRST_LISTENER))
            if own is None or other is None:
                continue
            if (own.address, own.port) != (other.request.address, other.request.port):
                message = f"{other.pointer} has another address or port for the fleet's first listener"
                raise _problem(
                    "contradiction", message, f"{item.pointer}/listener", "declare it once", f"{own.address}:{own.port}"
                )
            without = item.request.model_copy(update={"listener": None})
            self._declared[FLEETS.name]["", fleet] = replace(item, request=without)

    # -- what exists ---------------------------------------------------------------------------------------------------

    async def _read_existing(self, collection: AnyCollection) -> None:
        """Read the stored items of a collection. Those that change or go are locked, and read as they are now."""
        ids = [fleet.id for fleet in self._fleets.values()]
        rows = await read_rows(self.work.read, self.work.caller, collection, ids)
        existing = await self._as_existing(collection, rows)
        affected = self._affected[collection.name] = self._find_affected(collection, existing)
        locked = await lock_rows(self.work.session, collection.table, affected)
        fresh = await self._as_existing(collection, list(locked.values()))
        others = {key: each for key, each in existing.items() if each.row.id not in affected}
        self._existing[collection.name] = others | fresh

    def _find_affected(self, collection: AnyCollection, existing: Mapping[Key, ExistingItem]) -> set[UUID]:
        items = self._declared[collection.name]
        return {
            each.row.id
            for key, each in existing.items()
            if (_differs(each.declared, items[key].request) if key in items else self.prune)
        }

    async def _as_existing(self, collection: AnyCollection, rows: Sequence[Any]) -> dict[Key, ExistingItem]:
        shown = await show_rows(self.work.read, collection, rows)
        return {
            ("" if collection is FLEETS else each.fleet, each.name): ExistingItem(row, as_request(collection, each))
            for row, each in zip(rows, shown, strict=True)
        }

    def _superfluous(self, collection: AnyCollection) -> list[tuple[Key, ExistingItem]]:
        """The stored items that `prune` deletes, in the order of their keys."""
        if not self.prune or collection.name not in self._declared:
            return []
        kept = set(self._declared[collection.name])
        if collection is LISTENERS:
            fleets = self._declared.get(FLEETS.name, {}).values()
            kept |= {(each.request.name, FIRST_LISTENER) for each in fleets if each.request.listener is not None}
        return sorted(
            ((key, each) for key, each in self._existing[collection.name].items() if key not in kept),
            key=lambda item: item[0],
        )

    # -- the writes ----------------------------------------------------------------------------------------------------

    async def _make_room(self) -> None:
        """Delete what nothing refers to, and park the unique values of what goes or exchanges them."""
        for collection in reversed(ORDER):
            if collection not in _REFERRED_TO:
                await self._delete_superfluous(collection)
        for collection, unique in _UNIQUE.items():
            items = self._declared.get(collection.name, {})
            leaving = [each for _, each in self._superfluous(collection)] if collection is POOLS else []
            moving = [
                each
                for key, each in self._existing.get(collection.name, {}).items()
                if key in items
                and any(getattr(each.declared, name) != getattr(items[key].request, name) for name in unique)
            ]
            await self._park(collection, [*leaving, *moving])

    async def _park(self, collection: AnyCollection, items: Sequence[ExistingItem]) -> None:
        """Free the unique values of items. The rows in the session keep them, so that events name the old values."""
        parked: Any = (
            {PoolRow.only_by_name: True} if collection is POOLS else {ListenerRow.address: cast(ListenerRow.id, Text)}
        )
        ids = [each.row.id for each in items]
        for start in range(0, len(ids), _IDS_AT_ONCE):
            chosen = col(collection.table.id).in_(ids[start : start + _IDS_AT_ONCE])
            statement = update(collection.table).where(chosen).values(parked)
            await self.work.session.execute(statement, execution_options={"synchronize_session": False})
        for each in items:
            each.parked = True

    async def _create_and_change(self, collection: AnyCollection) -> None:
        """Create and change the items of a collection that the document holds."""
        changed: dict[Key, ExistingItem] = {}
        proxies = await self._lock_proxies() if collection is EXITS else ()
        async with self._batch(collection):
            await self._write_items(collection, changed)
        del proxies
        after = await self._as_existing(collection, [each.row for each in changed.values()])
        touched = {row_id for _, row_id in self.work.unit.touched} if collection in _WITH_SECRETS else ()
        for key, each in changed.items():
            changes = diff(each.declared, after[key].declared)
            if changes or str(each.row.id) in touched:  # a password or key, which is not shown
                self._add_step("changed", collection, key, each.row.id, changes)
            else:
                self.unchanged += 1

    async def _write_items(self, collection: AnyCollection, changed: dict[Key, ExistingItem]) -> None:
        existing, affected = self._existing[collection.name], self._affected[collection.name]
        references = await self._load_references(collection) if self._is_batch(collection) else None
        for index, (key, item) in enumerate(self._declared[collection.name].items()):
            if index % _YIELD_EVERY == 0:
                await asyncio.sleep(0)  # a batch awaits nothing else, and would keep the event loop from other tasks
            current = existing.get(key)
            if current is not None and not (current.row.id in affected and _differs(current.declared, item.request)):
                self.unchanged += 1
                continue
            request = item.request
            if references is not None:
                request = references.resolve(collection, self._fleets[key[0]], request)
            with locate_errors(item.pointer):
                if current is None:
                    row = await collection.create(self.work, request)
                    self._add_step("created", collection, key, row.id, {})
                    if collection is FLEETS:
                        self._fleets[row.name] = row
                else:
                    if current.parked:
                        flag_modified(current.row, _PARKED[collection])
                    await collection.change(self.work, current.row, _fields(request))
                    changed[key] = current

    def _is_batch(self, collection: AnyCollection) -> bool:
        return self.batched and collection not in _ONE_BY_ONE

    def _batch(self, collection: AnyCollection) -> AbstractAsyncContextManager[None]:
        """Send the rows of the block together, unless they refer to each other."""
        return self.work.unit.batch() if self._is_batch(collection) else nullcontext()

    async def _load_references(self, collection: AnyCollection) -> _LoadedReferences:
        """Load the rows that new and affected items of a collection refer to, and the pools of affected exits."""
        fleet_ids = {fleet.id for fleet in self._fleets.values()}
        existing, affected = self._existing[collection.name], self._affected[collection.name]
        items = [
            item
            for key, item in self._declared[collection.name].items()
            if key not in existing or existing[key].row.id in affected
        ]
        found: dict[tuple[type[Any], UUID, str], Any] = {}
        for name, table in _REFERENCES.get(collection, {}).items():
            refs = {getattr(each.request, name) for each in items} - {None}
            if collection is EXITS:
                refs |= {str(each.row.pool_id) for each in existing.values() if each.row.id in affected}
            for row in await declared.load_named(self.work.session, table, fleet_ids, refs):
                found[table, row.fleet_id, row.name] = found[table, row.fleet_id, str(row.id)] = row
        return _LoadedReferences(found)

    async def _lock_proxies(self) -> Sequence[ProxyRow]:
        """Lock the proxies of affected exits. While the caller keeps them, the session finds each without a statement."""
        return list((await lock_rows(self.work.session, ProxyRow, self._affected[EXITS.name])).values())

    async def _delete_superfluous(self, collection: AnyCollection) -> None:
        superfluous = self._superfluous(collection)
        if not superfluous:
            return
        kept_alive: list[Any] = []
        if collection is EXITS:
            kept_alive = [await self._lock_proxies(), await self._load_references(EXITS)]
        async with self._batch(collection):
            for key, each in superfluous:
                with locate_errors("?prune", whole=True):
                    await collection.remove(self.work, each.row)
                self._add_step("deleted", collection, key, each.row.id, {})
        del kept_alive

    def _add_step(
        self, action: Action, collection: AnyCollection, key: Key, row_id: UUID, changes: Mapping[str, tuple[Any, Any]]
    ) -> None:
        fleet, name = key
        kind = collection.kind
        self.steps.append(
            StepOut(action=action, kind=kind, id=row_id, fleet=fleet or None, name=name, changes=dict(changes))
        )


def _matches_fleet(refs: Any) -> Any:
    ids = [found for found in map(as_id, refs) if found is not None]
    return or_(col(FleetRow.name).in_(list(refs)), col(FleetRow.id).in_(ids))


def _fields(request: Any) -> dict[str, Any]:
    """The fields that an item is given. It stays in its fleet, and a fleet declared without a listener keeps its own."""
    fields: dict[str, Any] = request.model_dump()
    fields.pop("fleet", None)
    if fields.get("listener", ...) is None:
        del fields["listener"]
    return fields


def _differs(current: Any, request: Any) -> bool:
    stored = current.model_dump()
    return any(value != stored[name] for name, value in _fields(request).items())


def _problem(code: str, message: str, pointer: str, hint: str, value: object = None) -> Problem:
    return Problem(422, code, message, errors=[FieldError(pointer, message, hint, value)])
