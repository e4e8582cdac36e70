"""What the keeper sees of its containers at one look: the engine's list beside what is known, by pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from keeper.containers.container_spec import TEMPLATE_LABEL, SpecContext, slot_from_labels, template_digest
from keeper.containers.engine_responses import ContainerStatus, ListedContainer
from keeper.containers.planning import ObservedExit, Slot
from model.repositories.containers import ContainerExit, ContainerPool
from model.stored_containers import ContainerSettings
from model.tables import ContainerRow


@dataclass(frozen=True, slots=True)
class Inventory:
    """One look. `known` are the containers by name, as they are to be kept; `seen` those that the engine has."""

    pools: Mapping[UUID, ContainerPool]
    known: Mapping[str, ContainerRow]
    exits: Mapping[str, ContainerExit]
    seen: Mapping[str, ListedContainer] = field(default_factory=dict)

    def of_pool(self, pool_id: UUID) -> Sequence[ContainerRow]:
        """The containers of a pool, by slot."""
        rows = (row for row in self.known.values() if row.pool_id == pool_id)
        return sorted(rows, key=lambda row: row.slot)

    def slot(self, row: ContainerRow, wish: ContainerSettings | None, ground: SpecContext) -> Slot:
        """A container as planning takes it."""
        found, inside = self.seen.get(row.name), self.exits.get(row.name)
        made_of = found.labels.get(TEMPLATE_LABEL) if found else None
        return Slot(
            number=row.slot,
            name=row.name,
            life=found.life if found else ContainerStatus.MISSING,
            started_at=row.started_at,
            leaving_since=row.leaving_since,
            held=row.held,
            outdated=wish is not None and made_of is not None and made_of != template_digest(wish, ground),
            status=found.status if found else "",
            exit=None if inside is None else _as_seen(inside),
        )


def _as_seen(inside: ContainerExit) -> ObservedExit:
    return ObservedExit(inside.state, inside.state_since, inside.heard_at, inside.open_requests)


def find_orphans(
    seen: Iterable[ListedContainer], known: Mapping[str, ContainerRow], now: datetime
) -> list[ContainerRow]:
    """The rows of containers that are this installation's by their labels, and that nobody knows of any more.

    That is so after a backup was restored. One whose slot another has by now has leave to go.
    """
    taken = {(row.pool_id, row.slot) for row in known.values()}
    found = []
    for each in seen:
        place = slot_from_labels(each.name, each.labels)
        if place is None or each.name in known or (place.pool_id, place.slot) in taken:
            continue
        taken.add((place.pool_id, place.slot))
        found.append(ContainerRow(name=each.name, pool_id=place.pool_id, slot=place.slot, started_at=now))
    return found
