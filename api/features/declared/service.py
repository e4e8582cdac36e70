"""Making what is declared what a document says, and the document of what is declared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy.exc import DBAPIError, IntegrityError

from api.features.declared.apply import ApplyPlan
from api.features.declared.batch_session import BatchSession
from api.features.declared.queries import ORDER, as_wish, rows_of, shown
from api.features.declared.schemas import AppliedOut, Declared
from api.features.fleets.service import FLEETS
from api.http.problems import DUPLICATE, RETRY_AFTER_S, Problem
from api.kernel.caller import Caller
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.unit_of_work import UnitOfWork

_IN_EACH_OTHERS_WAY = frozenset({"40P01", "40001"})
"""What PostgreSQL says when it had to choose one of two writers: deadlock, serialization failure."""


async def export(look: ReadContext, caller: Caller, fleet: str | None) -> Declared:
    """All that is declared (in one fleet), as a document that `apply` takes, in an order that does not change.

    Keys of certificates are not in it. The first listener of a fleet is among the listeners.
    """
    chosen = None if fleet is None else [(await FLEETS.find(look.session, caller, fleet)).id]
    found: dict[str, list[Any]] = {}
    for collection in ORDER:
        rows = await rows_of(look, caller, collection, chosen)
        wishes = [as_wish(collection, view) for view in await shown(look, collection, rows)]
        if collection is FLEETS:
            wishes = [wish.model_copy(update={"listener": None}) for wish in wishes]
        found[collection.name] = sorted(wishes, key=_place)
    # not validated again: each wish was, and there may be more than one request may carry
    return Declared.model_construct(_fields_set=set(found), **found)


async def apply(work: WriteContext, document: Declared, *, prune: bool, fleet: str | None = None) -> AppliedOut:
    """Create and change what the document names; with `prune` delete what it does not.

    That touches only the collections that are in the document, and the fleets that it names; if fleets are among what it
    has, those that it does not name go too, with what they have in these collections. With `fleet` it is about that one
    alone. Raises Problem, with the place in the document.

    Everything of a kind is written together; if anything clashes, it is done again one by one, to say what, or to see what
    others did meanwhile.
    """
    try:
        try:
            return await _apply(work, document, prune=prune, fleet=fleet, batched=True)
        except IntegrityError:
            pass
        except Problem as problem:
            if problem.code != DUPLICATE:
                raise
        return await _apply(work, document, prune=prune, fleet=fleet, batched=False)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _IN_EACH_OTHERS_WAY:
            raise
        message = "another write was in the way, nothing was done"
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        raise Problem(503, "busy", message, hint="send it again", headers=headers) from error


async def _apply(
    work: WriteContext, document: Declared, *, prune: bool, fleet: str | None, batched: bool
) -> AppliedOut:
    async with work.session.begin_nested():
        session = BatchSession(work.session, batched=batched)
        unit = UnitOfWork(session.as_session, work.unit.traceparent, work.unit.actor)
        look = replace(work.look, session=session.as_session)
        trial = WriteContext(unit, work.caller, look, work.now, work.approve)
        applied = await ApplyPlan(trial, session, document, prune, fleet).run()
    work.unit.touched.update(unit.touched)
    work.forgotten.extend(trial.forgotten)
    return applied


def _place(wish: Any) -> tuple[str, int, str]:
    return getattr(wish, "fleet", ""), getattr(wish, "position", 0), wish.name
