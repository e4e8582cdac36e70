"""Making what is declared what a document says, and the document of what is declared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import select
from sqlmodel import col

from api.auth.caller import Caller
from api.collections.collection import Collection
from api.context import Look
from api.declared.schemas import AppliedOut, Declared, StepOut
from api.exits.service import EXITS
from api.fleets import service as fleets
from api.fleets.service import FLEETS
from api.guard_rails import no_silent_shrink
from api.listeners.service import LISTENERS
from api.plans.service import PLANS
from api.pools.service import POOLS
from api.problems import FieldError, Problem
from api.routes.service import ROUTES
from api.users.service import USERS
from api.writes import Work
from model.repositories import declared

_ORDER: Final[tuple[Collection[Any, Any, Any], ...]] = (FLEETS, PLANS, POOLS, LISTENERS, EXITS, ROUTES, USERS)
"""What refers to something comes after it."""
_REFERRED_TO: Final = (POOLS, PLANS, FLEETS)
"""What is deleted after all else has left it, in this order."""

Key = tuple[UUID | None, str]
"""The fleet (None: it is one) and the name of a thing."""


async def export(look: Look, caller: Caller, fleet: str | None) -> Declared:
    """All that is declared (in one fleet), as a document that `apply` takes. Keys of certificates are not in it."""
    chosen = None if fleet is None else (await FLEETS.find(look.session, caller, fleet)).id
    found: dict[str, list[Any]] = {}
    for collection in _ORDER:
        rows = await _rows(look, caller, collection, None if chosen is None else [chosen])
        shown = await collection.show(look, rows)
        found[collection.name] = [_as_wish(collection, each) for each in shown]
    return Declared(**found)


async def apply(work: Work, document: Declared, *, prune: bool) -> AppliedOut:
    """Create and change what the document names; with `prune` delete what it does not.

    That touches only the collections that are in the document, and only the fleets that it names. Raises Problem, with the
    place in the document.
    """
    application = _Application(work, prune=prune)
    await application.read(document)
    async with no_silent_shrink(work, application.fleets):
        await application.make_room()
        for collection in _ORDER:
            await application.make(collection)
        await application.clear()
    return AppliedOut(steps=application.steps, unchanged=application.unchanged)


@dataclass(slots=True)
class _Application:
    work: Work
    prune: bool
    steps: list[StepOut] = field(default_factory=list)
    unchanged: int = 0
    fleets: dict[UUID, str] = field(default_factory=dict)
    """The fleets that the document is about and that are there already."""
    wishes: dict[str, list[Any]] = field(default_factory=dict)
    rows: dict[str, dict[Key, Any]] = field(default_factory=dict)
    """What there is, by collection."""

    async def read(self, document: Declared) -> None:
        """Find what there is of what the document is about."""
        self.wishes = {name: items for name in Declared.model_fields if (items := getattr(document, name)) is not None}
        refs = {each.name for each in self.wishes.get("fleets", ())}
        refs |= {each.fleet for name, items in self.wishes.items() if name != "fleets" for each in items if each.fleet}
        for ref in sorted(refs):
            row = await declared.find_fleet(self.work.session, ref)
            if row is not None and self.work.caller.sees(row.id):
                self.fleets[row.id] = row.name
        for collection in _ORDER:
            if collection.name in self.wishes:
                of_all = collection is FLEETS and self.prune
                where = None if of_all else list(self.fleets)
                found = await _rows(self.work.look, self.work.caller, collection, where)
                self.rows[collection.name] = {await self._key_of(collection, row): row for row in found}

    async def make_room(self) -> None:
        """Delete what nothing refers to, and let pools that will go give up their country."""
        if not self.prune:
            return
        for collection in reversed(_ORDER):
            for key, row in self._superfluous(collection):
                if collection in _REFERRED_TO:
                    if collection is POOLS:
                        await POOLS.change(self.work, row, {"only_by_name": True})
                else:
                    await self._delete(collection, key, row)

    async def make(self, collection: Collection[Any, Any, Any]) -> None:
        """Create and change what the document has of a collection."""
        seen: set[Key] = set()
        for place, wish in enumerate(self.wishes.get(collection.name, ())):
            with _placed(f"/{collection.name}/{place}"):
                key = await self._key(collection, wish)
                if key in seen:
                    message = f"the document has this {collection.kind} twice"
                    raise Problem(
                        422, "twice", message, errors=[FieldError("/name", message, "name it once", wish.name)]
                    )
                seen.add(key)
                await self._make(collection, key, wish)

    async def clear(self) -> None:
        """Delete what other things referred to."""
        if self.prune:
            for collection in _REFERRED_TO:
                for key, row in self._superfluous(collection):
                    await self._delete(collection, key, row)

    async def _make(self, collection: Collection[Any, Any, Any], key: Key, wish: Any) -> None:
        row = self.rows[collection.name].get(key)
        if row is None:
            made = await collection.create(self.work, wish)
            if collection is FLEETS:
                self.fleets[made.id] = made.name
            self._note("created", collection, key, made.id, {})
            return
        now = _as_wish(collection, await collection.show_one(self.work.look, row)).model_dump()
        wanted = wish.model_dump()
        if wanted.get("fleet") is not None:
            wanted["fleet"] = now["fleet"]
        differing = {name: value for name, value in wanted.items() if value != now[name]}
        before = len(self.work.unit.touched)
        if differing:
            row = await collection.lock(self.work, str(row.id))
            await collection.change(self.work, row, dict(differing))
        if len(self.work.unit.touched) == before:
            self.unchanged += 1
        else:
            self._note(
                "changed", collection, key, row.id, {name: (now[name], value) for name, value in differing.items()}
            )

    async def _delete(self, collection: Collection[Any, Any, Any], key: Key, row: Any) -> None:
        await collection.remove(self.work, row)
        self._note("deleted", collection, key, row.id, {})

    def _superfluous(self, collection: Collection[Any, Any, Any]) -> Iterator[tuple[Key, Any]]:
        if collection.name in self.wishes:
            named = {(self._fleet_id(wish, collection), wish.name) for wish in self.wishes[collection.name]}
            for key, row in sorted(self.rows[collection.name].items(), key=lambda each: each[0][1]):
                if key not in named:
                    yield key, row

    def _note(
        self,
        action: Literal["created", "changed", "deleted"],
        collection: Collection[Any, Any, Any],
        key: Key,
        row_id: UUID,
        changes: Mapping[str, tuple[Any, Any]],
    ) -> None:
        fleet_id, name = key
        fleet = None if fleet_id is None else self.fleets[fleet_id]
        self.steps.append(
            StepOut(action=action, kind=collection.kind, id=row_id, fleet=fleet, name=name, changes=dict(changes))
        )

    async def _key(self, collection: Collection[Any, Any, Any], wish: Any) -> Key:
        if collection is FLEETS:
            return None, wish.name
        if wish.fleet is None:
            message = "a document says of which fleet each thing is"
            raise Problem(422, "no_fleet", message, errors=[FieldError("/fleet", message, "add it")])
        fleet_id = self._fleet_id(wish, collection)
        if fleet_id is None:
            fleet = await fleets.refer(self.work.session, wish.fleet, caller=self.work.caller)
            self.fleets[fleet.id] = fleet.name
            fleet_id = fleet.id
        return fleet_id, wish.name

    def _fleet_id(self, wish: Any, collection: Collection[Any, Any, Any]) -> UUID | None:
        if collection is FLEETS:
            return None
        return next((key for key, name in self.fleets.items() if wish.fleet in (name, str(key))), None)

    async def _key_of(self, collection: Collection[Any, Any, Any], row: Any) -> Key:
        if collection is FLEETS:
            return None, row.name
        if collection is EXITS:
            return (await declared.pools_by_id(self.work.session, [row.pool_id]))[row.pool_id][1].id, row.name
        return row.fleet_id, row.name


async def _rows(
    look: Look, caller: Caller, collection: Collection[Any, Any, Any], fleet_ids: Iterable[UUID] | None
) -> list[Any]:
    """The rows of a collection (in some fleets) that the caller sees, by name."""
    query = select(collection.table).where(*collection.visible(caller))
    if fleet_ids is not None:
        query = query.where(collection.fleet_of().in_(fleet_ids))
    return list((await look.session.execute(query.order_by(col(collection.table.name)))).scalars())


def _as_wish(collection: Collection[Any, Any, Any], shown: Any) -> Any:
    """What would have to be declared for a thing to be as it is."""
    fields = {name: value for name, value in shown.model_dump().items() if name in collection.wish.model_fields}
    return collection.wish.model_validate(fields, by_name=True)


@contextmanager
def _placed(pointer: str) -> Iterator[None]:
    """Say of a refusal which part of the document it is about."""
    try:
        yield
    except Problem as problem:
        problem.errors = tuple(
            replace(error, field=pointer + error.field if error.field.startswith("/") else pointer)
            for error in problem.errors
        )
        raise
