"""One application of a document: what there is, what has to go, what has to be made or changed, in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from sqlalchemy import Text, cast, or_, select, update
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel import col

from api.features.declared.batch_session import BatchSession
from api.features.declared.queries import ORDER, AnyCollection, as_wish, differences, lock, rows_of, shown
from api.features.declared.schemas import AppliedOut, Declared, StepOut
from api.features.exits.service import EXITS
from api.features.fleets.service import FLEETS
from api.features.listeners.service import LISTENERS
from api.features.plans.service import PLANS
from api.features.pools.service import POOLS
from api.features.routes.service import ROUTES
from api.http.field_errors import FieldError
from api.http.field_types import as_id
from api.http.problems import Problem, unknown
from api.kernel.shrink_guard import no_silent_shrink
from api.kernel.writes import WriteContext
from model.entities import FIRST_LISTENER
from model.tables import FleetRow, ListenerRow, PoolRow, ProxyRow

_ONE_BY_ONE: Final = (FLEETS, ROUTES)
"""One of these is several rows that refer to each other."""
_REFERRED_TO: Final = (POOLS, PLANS, FLEETS)
"""What is deleted after all else has left it, in this order."""
_UNIQUE: Final[Mapping[AnyCollection, tuple[str, ...]]] = {
    POOLS: ("country", "city", "only_by_name"),
    LISTENERS: ("address", "port"),
}
"""Values besides the name that two things of a fleet may not share, but may exchange."""
_TURN: Final = 50
_PARKED: Final[Mapping[AnyCollection, str]] = {POOLS: "only_by_name", LISTENERS: "address"}
"""The column that takes another value meanwhile."""

Key: TypeAlias = tuple[str, str]
"""The names of a thing's fleet (empty: it is one) and of the thing."""
Action: TypeAlias = Literal["created", "changed", "deleted"]


@dataclass(frozen=True, slots=True)
class DeclaredItem:
    """What a document wants of one thing, and where in it that stands."""

    pointer: str
    wish: Any


@dataclass(slots=True)
class ExistingItems:
    """A thing that is there. `now` is what would have to be declared for it to be as it is."""

    row: Any
    now: Any
    parked: bool = False


@dataclass(slots=True)
class ApplyPlan:
    """Used once. `work` has a session of its own; what is left of it after an error is worth nothing."""

    work: WriteContext
    session: BatchSession
    document: Declared
    prune: bool
    only: str | None
    """The one fleet that the document may be about."""
    steps: list[StepOut] = field(default_factory=list)
    unchanged: int = 0
    _fleets: dict[str, FleetRow] = field(default_factory=dict)
    """The fleets that it is about and that are there, by name."""
    _wanted: dict[str, dict[Key, DeclaredItem]] = field(default_factory=dict)
    _there: dict[str, dict[Key, ExistingItems]] = field(default_factory=dict)
    """What there is, by collection: of those that are in the document."""

    async def run(self) -> AppliedOut:
        """Raises Problem, with the place in the document; IntegrityError for a clash within a batch."""
        await self._find_fleets()
        self._read_wishes()
        for collection in ORDER:
            if collection.name in self._wanted:
                await self._find(collection)
        async with no_silent_shrink(self.work, [fleet.id for fleet in self._fleets.values()]):
            await self._make_room()
            for collection in ORDER:
                if collection.name in self._wanted:
                    await self._make(collection)
            for collection in (POOLS, PLANS):
                await self._delete_superfluous(collection)
        # an approval to shrink goes with its fleet
        await self._delete_superfluous(FLEETS)
        return AppliedOut(steps=self.steps, unchanged=self.unchanged)

    # -- what the document wants ---------------------------------------------------------------------------------------

    def _items(self) -> Iterator[tuple[AnyCollection, list[Any]]]:
        for collection in ORDER:
            items = getattr(self.document, collection.name)
            if items is not None:
                yield collection, items

    async def _find_fleets(self) -> None:
        """The fleets that are there, held so that nothing is added to them and nobody else applies a document meanwhile."""
        query = select(FleetRow).where(*FLEETS.visible(self.work.caller)).order_by(col(FleetRow.id)).with_for_update()
        if self.only is not None:
            query = query.where(_named([self.only]))
        elif self.document.fleets is None or not self.prune:
            refs = {
                each.name if collection is FLEETS else each.fleet
                for collection, items in self._items()
                for each in items
            }
            query = query.where(_named(refs - {None}))
        found = (await self.session.execute(query)).scalars()
        self._fleets = {fleet.name: fleet for fleet in found}

    def _read_wishes(self) -> None:
        names = {str(fleet.id): name for name, fleet in self._fleets.items()}
        names |= {name: name for name in [*self._fleets, *(each.name for each in self.document.fleets or ())]}
        for collection, items in self._items():
            wanted = self._wanted[collection.name] = {}
            for place, wish in enumerate(items):
                pointer = f"/{collection.name}/{place}"
                fleet = self._fleet_of(collection, wish, names, pointer)
                key = ("" if collection is FLEETS else fleet, wish.name)
                if key in wanted:
                    message = f"the document has this {collection.kind} twice"
                    raise _problem("twice", message, f"{pointer}/name", "name it once", wish.name)
                wanted[key] = DeclaredItem(pointer, wish)
        self._settle_first_listeners()

    def _fleet_of(self, collection: AnyCollection, wish: Any, names: Mapping[str, str], pointer: str) -> str:
        """The name of the fleet that a thing of the document is of, or is. Raises Problem (422)."""
        where = "name" if collection is FLEETS else "fleet"
        ref, pointer = getattr(wish, where), f"{pointer}/{where}"
        if ref is None:
            raise _problem("no_fleet", "a document says of which fleet each thing is", pointer, "add it")
        if self.only is not None and names.get(ref, ref) != names.get(self.only, self.only):
            message = f"this is of another fleet than {self.only}, which the document is for"
            raise _problem("other_fleet", message, pointer, "leave it out, or leave ?fleet= out", ref)
        if ref not in names:
            raise unknown("fleet", pointer, ref)
        return names[ref]

    def _settle_first_listeners(self) -> None:
        """A fleet's own listener is one of the listeners too: what is said twice must be the same, and is done once."""
        listeners = self._wanted.get(LISTENERS.name)
        if listeners is None:
            return
        for (_, fleet), wanted in self._wanted.get(FLEETS.name, {}).items():
            own, other = wanted.wish.listener, listeners.get((fleet, FIRST_LISTENER))
            if own is None or other is None:
                continue
            if (own.address, own.port) != (other.wish.address, other.wish.port):
                message = f"{other.pointer} says another address and port of the fleet's first listener"
                raise _problem(
                    "contradiction", message, f"{wanted.pointer}/listener", "say it once", f"{own.address}:{own.port}"
                )
            self._wanted[FLEETS.name]["", fleet] = replace(
                wanted, wish=wanted.wish.model_copy(update={"listener": None})
            )

    # -- what there is -------------------------------------------------------------------------------------------------

    async def _find(self, collection: AnyCollection) -> None:
        """What there is of a collection; what will change or go is held, and is as it is now."""
        ids = [fleet.id for fleet in self._fleets.values()]
        rows = await rows_of(self.work.look, self.work.caller, collection, ids)
        there = await self._as_existing(collection, rows)
        moving = self._moving(collection, there)
        held = await lock(self.session.as_session, collection.table, moving)
        fresh = await self._as_existing(collection, list(held.values()))
        stays = {key: each for key, each in there.items() if each.row.id not in moving}
        self._there[collection.name] = stays | fresh

    def _moving(self, collection: AnyCollection, there: Mapping[Key, ExistingItems]) -> set[UUID]:
        """The ids of what will change or go."""
        wanted = self._wanted[collection.name]
        return {
            each.row.id
            for key, each in there.items()
            if (_differs(each.now, wanted[key].wish) if key in wanted else self.prune)
        }

    async def _as_existing(self, collection: AnyCollection, rows: Sequence[Any]) -> dict[Key, ExistingItems]:
        views = await shown(self.work.look, collection, rows)
        return {
            ("" if collection is FLEETS else view.fleet, view.name): ExistingItems(row, as_wish(collection, view))
            for row, view in zip(rows, views, strict=True)
        }

    def _superfluous(self, collection: AnyCollection) -> list[tuple[Key, ExistingItems]]:
        if not self.prune or collection.name not in self._wanted:
            return []
        kept = set(self._wanted[collection.name])
        if collection is LISTENERS:
            declared_with = self._wanted.get(FLEETS.name, {}).values()
            kept |= {(each.wish.name, FIRST_LISTENER) for each in declared_with if each.wish.listener is not None}
        return sorted(
            ((key, each) for key, each in self._there[collection.name].items() if key not in kept),
            key=lambda item: item[0],
        )

    # -- what is done --------------------------------------------------------------------------------------------------

    async def _make_room(self) -> None:
        """Delete what nothing refers to, and have what will go or exchange unique values hold none of them."""
        for collection in reversed(ORDER):
            if collection not in _REFERRED_TO:
                await self._delete_superfluous(collection)
        for collection, unique in _UNIQUE.items():
            wanted = self._wanted.get(collection.name, {})
            leaving = [each for _, each in self._superfluous(collection)] if collection is POOLS else []
            moving = [
                each
                for key, each in self._there.get(collection.name, {}).items()
                if key in wanted and any(getattr(each.now, name) != getattr(wanted[key].wish, name) for name in unique)
            ]
            await self._park(collection, [*leaving, *moving])

    async def _park(self, collection: AnyCollection, things: Sequence[ExistingItems]) -> None:
        """Not by way of the rows: nobody is to see it, and they still know what was."""
        parked: Any = (
            {PoolRow.only_by_name: True} if collection is POOLS else {ListenerRow.address: cast(ListenerRow.id, Text)}
        )
        ids = [each.row.id for each in things]
        for start in range(0, len(ids), 10_000):
            those = col(collection.table.id).in_(ids[start : start + 10_000])
            statement = update(collection.table).where(those).values(parked)
            await self.session.execute(statement, execution_options={"synchronize_session": False})
        for each in things:
            each.parked = True

    async def _make(self, collection: AnyCollection) -> None:
        """Create and change what the document has of a collection."""
        there = self._there[collection.name]
        changed: dict[Key, ExistingItems] = {}
        proxies = await self._proxies_of(there) if collection is EXITS else ()
        async with self._together(collection):
            await self._write(collection, changed)
        del proxies
        rows = [each.row for each in changed.values()]
        after = await self._as_existing(collection, rows)
        touched = {row_id for _, row_id in self.work.unit.touched} if collection is EXITS else ()
        for key, each in changed.items():
            changes = differences(each.now, after[key].now)
            if changes or str(each.row.id) in touched:  # what is not shown, a password, may have changed
                self._note("changed", collection, key, each.row.id, changes)
            else:
                self.unchanged += 1

    async def _write(self, collection: AnyCollection, changed: dict[Key, ExistingItems]) -> None:
        there = self._there[collection.name]
        for place, (key, wanted) in enumerate(self._wanted[collection.name].items()):
            if place % _TURN == 0:
                await asyncio.sleep(0)  # others have a turn: nothing below need wait for PostgreSQL
            existing = there.get(key)
            with _placed(wanted.pointer):
                if existing is None:
                    row = await collection.create(self.work, wanted.wish)
                    self._note("created", collection, key, row.id, {})
                elif _differs(existing.now, wanted.wish):
                    if existing.parked:
                        flag_modified(existing.row, _PARKED[collection])
                    await collection.change(self.work, existing.row, _fields(wanted.wish))
                    changed[key] = existing
                else:
                    self.unchanged += 1

    def _together(self, collection: AnyCollection) -> AbstractAsyncContextManager[None]:
        """What is written to a collection reaches the database in few statements, where its order does not matter."""
        return nullcontext() if collection in _ONE_BY_ONE else self.session.together()

    async def _proxies_of(self, exits: Mapping[Key, ExistingItems]) -> Sequence[ProxyRow]:
        """The Envoys of exits that change or go, at hand so that none is asked for alone."""
        return list((await lock(self.session.as_session, ProxyRow, self._moving(EXITS, exits))).values())

    async def _delete_superfluous(self, collection: AnyCollection) -> None:
        superfluous = self._superfluous(collection)
        if not superfluous:
            return
        proxies = await self._proxies_of(self._there[EXITS.name]) if collection is EXITS else ()
        async with self._together(collection):
            for key, each in superfluous:
                with _placed("?prune", whole=True):
                    await collection.remove(self.work, each.row)
                self._note("deleted", collection, key, each.row.id, {})
        del proxies

    def _note(
        self, action: Action, collection: AnyCollection, key: Key, row_id: UUID, changes: Mapping[str, tuple[Any, Any]]
    ) -> None:
        fleet, name = key
        kind = collection.kind
        self.steps.append(
            StepOut(action=action, kind=kind, id=row_id, fleet=fleet or None, name=name, changes=dict(changes))
        )


def _named(refs: Any) -> Any:
    ids = [found for found in map(as_id, refs) if found is not None]
    return or_(col(FleetRow.name).in_(list(refs)), col(FleetRow.id).in_(ids))


def _fields(wish: Any) -> dict[str, Any]:
    """The fields that a thing is to have. It stays in its fleet, and a fleet without a listener keeps the one it has."""
    fields: dict[str, Any] = wish.model_dump()
    fields.pop("fleet", None)
    if fields.get("listener", ...) is None:
        del fields["listener"]
    return fields


def _differs(now: Any, wish: Any) -> bool:
    there = now.model_dump()
    return any(value != there[name] for name, value in _fields(wish).items())


def _problem(code: str, message: str, pointer: str, hint: str, value: object = None) -> Problem:
    return Problem(422, code, message, errors=[FieldError(pointer, message, hint, value)])


@contextmanager
def _placed(pointer: str, *, whole: bool = False) -> Iterator[None]:
    """Say of a refusal which part of the document it is about."""
    try:
        yield
    except Problem as problem:
        problem.errors = tuple(
            replace(error, field=pointer if whole or not error.field.startswith("/") else pointer + error.field)
            for error in problem.errors
        )
        raise
