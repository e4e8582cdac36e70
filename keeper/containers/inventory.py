"""The inventory of containers at one time: the engine's list and the rows in the database, by pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from keeper.containers.container_spec import TEMPLATE_LABEL, SpecContext, slot_from_labels, template_digest
from keeper.containers.engine_responses import ContainerState, ListedContainer
from keeper.containers.planning import ObservedExit, Slot
from model.repositories.containers import ContainerExit, ContainerPool
from model.stored_containers import ContainerSettings
from model.tables import ContainerRow


@dataclass(frozen=True, slots=True)
class Inventory:
    """`known` are the rows of the database, `seen` the containers that the engine has; both by container name."""

    pools: Mapping[UUID, ContainerPool]
    known: Mapping[str, ContainerRow]
    exits: Mapping[str, ContainerExit]
    seen: Mapping[str, ListedContainer] = field(default_factory=dict)

    def of_pool(self, pool_id: UUID) -> Sequence[ContainerRow]:
        """Return the containers of a pool, by slot."""
        rows = (row for row in self.known.values() if row.pool_id == pool_id)
        return sorted(rows, key=lambda row: row.slot)

    def slot(self, row: ContainerRow, settings: ContainerSettings | None, context: SpecContext) -> Slot:
        """Return a container as the input of planning."""
        found, in_container = self.seen.get(row.name), self.exits.get(row.name)
        template = found.labels.get(TEMPLATE_LABEL) if found else None
        return Slot(
            number=row.slot,
            name=row.name,
            state=found.state if found else ContainerState.MISSING,
            started_at=row.started_at,
            leaving_since=row.leaving_since,
            held=row.held,
            outdated=settings is not None and template is not None and template != template_digest(settings, context),
            status=found.status if found else "",
            exit=None if in_container is None else _observed(in_container),
        )


def _observed(exit_: ContainerExit) -> ObservedExit:
    return ObservedExit(exit_.state, exit_.state_since, exit_.heard_at, exit_.open_requests)


def find_orphans(
    seen: Iterable[ListedContainer], known: Mapping[str, ContainerRow], now: datetime
) -> list[ContainerRow]:
    """Return rows for containers of this installation that the database does not know, as after a restored backup.

    An orphan whose slot is taken by another container is left out.
    """
    taken = {(row.pool_id, row.slot) for row in known.values()}
    found = []
    for each in seen:
        slot = slot_from_labels(each.name, each.labels)
        if slot is None or each.name in known or (slot.pool_id, slot.slot) in taken:
            continue
        taken.add((slot.pool_id, slot.slot))
        found.append(ContainerRow(name=each.name, pool_id=slot.pool_id, slot=slot.slot, started_at=now))
    return found
