"""Events of the change log as the API shows them."""

from __future__ import annotations

from typing import Any, Final

from api.features.events.schemas import EventKind, EventOut
from model.repositories.events import Event

_SHOWN: Final = {kind.stored: kind.value for kind in EventKind}


def show(event: Event) -> EventOut:
    """An event of the change log as the API shows it."""
    return EventOut(
        id=event.id,
        at=event.at,
        revision=event.revision,
        kind=_SHOWN.get(event.kind, event.kind),
        action=event.action,
        object_id=event.object_id,
        fleet_id=event.fleet_id,
        name=event.detail.get("name"),
        changes=_changes(event),
    )


def _changes(event: Event) -> dict[str, Any]:
    """Pairs of before and after. The detail of what was created has its fields, and maybe what became of them at once."""
    if event.action == "deleted":
        return {}
    changed: dict[str, Any] = event.detail.get("changes", {})
    if event.action != "created":
        return changed
    fields = {name: value for name, value in event.detail.items() if name not in {"id", "name", "changes"}}
    fields |= {name: after for name, (_, after) in changed.items()}
    return {name: [None, value] for name, value in fields.items()}
