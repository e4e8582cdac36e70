"""The export of the declared state as a document, and the application of a document."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy.exc import DBAPIError, IntegrityError

from api.features.declared.apply import ApplyPlan
from api.features.declared.queries import ORDER, as_request, read_rows, show_rows
from api.features.declared.schemas import AppliedOut, Declared
from api.features.fleets.service import FLEETS
from api.http.problems import DUPLICATE, RETRY_AFTER_S, Problem
from api.kernel.caller import Caller
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.unit_of_work import UnitOfWork

_WRITE_CONFLICTS = frozenset({"40P01", "40001"})
"""PostgreSQL's codes for a writer that it ended in favour of another: deadlock, serialization failure."""


async def export(read: ReadContext, caller: Caller, fleet: str | None) -> Declared:
    """Export all that is declared (in one fleet) as a document that `apply` takes, in a stable order.

    Keys of certificates are not in it, so that uploaded ones are not created from it elsewhere. The first listener of a fleet is among the listeners.
    """
    fleet_ids = None if fleet is None else [(await FLEETS.find(read.session, caller, fleet)).id]
    exported: dict[str, list[Any]] = {}
    for collection in ORDER:
        rows = await read_rows(read, caller, collection, fleet_ids)
        items = [as_request(collection, shown) for shown in await show_rows(read, collection, rows)]
        if collection is FLEETS:
            items = [item.model_copy(update={"listener": None}) for item in items]
        exported[collection.name] = sorted(items, key=_sort_key)
    # not validated again: each item was, and an export may hold more items than a request may
    return Declared.model_construct(_fields_set=set(exported), **exported)


async def apply(work: WriteContext, document: Declared, *, prune: bool, fleet: str | None = None) -> AppliedOut:
    """Create and change what the document names; with `prune` delete what it does not name.

    Only the document's collections are touched, and only in the fleets that it names. If the document has fleets,
    `prune` also deletes the others, with what they have in these collections. With `fleet` it touches that fleet only.

    A collection is written in a batch. After a clash the document is applied again item by item, which finds the item
    at fault, or sees what another writer committed. Raises Problem with the place in the document.
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
        if getattr(error.orig, "sqlstate", None) not in _WRITE_CONFLICTS:
            raise
        message = "another write conflicted with this one, so nothing was changed"
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        raise Problem(503, "busy", message, hint="send it again", headers=headers) from error


async def _apply(
    work: WriteContext, document: Declared, *, prune: bool, fleet: str | None, batched: bool
) -> AppliedOut:
    """Apply the document in a savepoint. Only when that succeeds, `work` takes over what was touched."""
    async with work.session.begin_nested():
        unit = UnitOfWork(work.session, work.unit.traceparent, work.unit.actor)
        attempt = replace(work, unit=unit, is_guarded=False, removed_proxies=[])
        applied = await ApplyPlan(attempt, document, prune, fleet, batched).run()
    work.unit.touched.update(unit.touched)
    work.removed_proxies.extend(attempt.removed_proxies)
    return applied


def _sort_key(request: Any) -> tuple[str, int, str]:
    return getattr(request, "fleet", ""), getattr(request, "position", 0), request.name
