"""Conversion of change-log events to API responses."""

from __future__ import annotations

from typing import Any, Final

from api.features.events.schemas import EventKind, EventOut
from model.repositories.events import Event

_KIND_OF_STORED: Final = {kind.stored: kind.value for kind in EventKind}


def show(event: Event) -> EventOut:
    """Convert an event of the change log."""
    return EventOut(
        id=event.id,
        at=event.at,
        revision=event.revision,
        kind=_KIND_OF_STORED.get(event.kind, event.kind),
        action=event.action,
        object_id=event.object_id,
        fleet_id=event.fleet_id,
        name=event.detail.get("name"),
        changes=_changes(event),
    )


def _changes(event: Event) -> dict[str, Any]:
    """Return `[before, after]` per field. A creation's detail holds its fields, and their changes within the same write."""
    if event.action == "deleted":
        return {}
    changed: dict[str, Any] = event.detail.get("changes", {})
    if event.action != "created":
        return changed
    fields = {name: value for name, value in event.detail.items() if name not in {"id", "name", "changes"}}
    fields |= {name: after for name, (_, after) in changed.items()}
    return {name: [None, value] for name, value in fields.items()}
