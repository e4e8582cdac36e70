"""Conditions of subjects, made from what the database records. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from keeper.messages.evaluation import Conditions, Subject, SubjectCondition
from model.exit_states import SERVING
from model.message_events import MessageEvent
from model.repositories.message_facts import StateChange

Row = Mapping[str, Any]
CONTROL_PLANE: Final = Subject("control-plane", "the control plane")
SILENT_AFTER_S: Final = 5.0
"""A replica of the xDS server records every 2 s that it lives, and counts as dead after 10 s."""
_INGEST_AGE_MAX_S: Final = 60.0
_BY_STATE: Final = {
    "unreachable": MessageEvent.EXIT_UNREACHABLE,
    "lost": MessageEvent.EXIT_LOST,
    "leaking": MessageEvent.EXIT_LEAKING,
}


def ids_of(kind: str, keys: Collection[str]) -> list[UUID]:
    """Return the ids of the subjects of a kind among remembered keys."""
    return [UUID(key.removeprefix(f"{kind}:")) for key in keys if key.startswith(f"{kind}:")]


def onsets_of(changes: Sequence[StateChange]) -> Mapping[UUID, Counter[MessageEvent]]:
    """Count how often each event of exits began, by exit."""
    found: dict[UUID, Counter[MessageEvent]] = {}
    for each in changes:
        count = found.setdefault(each.exit_id, Counter())
        if each.after in _BY_STATE:
            count[_BY_STATE[each.after]] += 1
        if each.after in SERVING and each.before not in SERVING:
            count[MessageEvent.EXIT_UP] += 1
    return found


def of_exits(
    rows: Sequence[Row],
    onsets: Mapping[UUID, Counter[MessageEvent]],
    idle: Collection[UUID] | None,
    moved: Mapping[UUID, Row],
) -> Iterator[tuple[Subject, Conditions]]:
    """Make the conditions of exits. `idle` are those without traffic (None: not looked at), `moved` those with a new egress."""
    for row in rows:
        count = onsets.get(row["id"], Counter())
        found = {
            event: SubjectCondition(row["state"] == state, count[event], row["reason"])
            for state, event in _BY_STATE.items()
        }
        found[MessageEvent.EXIT_UP] = SubjectCondition(row["state"] in SERVING, count[MessageEvent.EXIT_UP])
        found[MessageEvent.EXIT_CAPPED] = SubjectCondition(row["capped"], 0, row["reason"])
        if idle is not None:
            found[MessageEvent.EXIT_IDLE] = SubjectCondition(row["id"] in idle)
        if row["id"] in moved:
            found |= _of_egress(moved[row["id"]])
        names = {"fleet": row["fleet"], "pool": row["pool"], "exit": row["name"]}
        yield Subject(f"exit:{row['id']}", f"exit {row['name']} ({row['fleet']}/{row['pool']})", **names), found


def _of_egress(row: Row) -> Conditions:
    found = {}
    for name, event in (("address", MessageEvent.ADDRESS_CHANGED), ("country", MessageEvent.COUNTRY_CHANGED)):
        former, present = row[f"former_{name}"], row[name]
        if former is not None and present is not None and former != present:
            found[event] = SubjectCondition(holds=False, onsets=1, detail=f"{former} before, {present} now")
    return found


def of_proxies(rows: Sequence[Row]) -> Iterator[tuple[Subject, Conditions]]:
    for row in rows:
        found = SubjectCondition(row["detail"] is not None, 0, row["detail"] or "")
        subject = Subject(f"proxy:{row['id']}", f"{row['role']} {row['name']} ({row['fleet']})", row["fleet"])
        yield subject, {MessageEvent.PROXY_REJECTED: found}


def of_fleets(rows: Sequence[Row]) -> Iterator[tuple[Subject, Conditions]]:
    for row in rows:
        found = SubjectCondition(row["reason"] is not None, 0, row["reason"] or "")
        subject = Subject(f"fleet:{row['id']}", f"fleet {row['name']}", row["name"])
        yield subject, {MessageEvent.CANARY_ROLLED_BACK: found}


def of_certificates(rows: Sequence[Row]) -> Iterator[tuple[Subject, Conditions]]:
    for row in rows:
        found = SubjectCondition(row["expires_soon"], 0, f"it expires at {row['expires_at']:%Y-%m-%d %H:%M} UTC")
        subject = Subject(f"certificate:{row['id']}", f"certificate {row['name']} ({row['fleet']})", row["fleet"])
        yield subject, {MessageEvent.CERTIFICATE_EXPIRING: found}


def of_control_plane(row: Row) -> tuple[Subject, Conditions]:
    """Make the condition of the control plane, as far as it is found in the database."""
    reasons = []
    if not row["has_keeper"]:
        reasons.append("no replica runs the keeper")
    if row["silent_replicas"]:
        reasons.append(f"{row['silent_replicas']} of its replicas did not reach PostgreSQL for {SILENT_AFTER_S:g} s")
    if (row["ingest_age_s"] or 0) > _INGEST_AGE_MAX_S:
        reasons.append(f"no replica stored heartbeats for {_INGEST_AGE_MAX_S:g} s")
    return CONTROL_PLANE, {MessageEvent.CONTROL_PLANE_DEGRADED: SubjectCondition(bool(reasons), 0, "; ".join(reasons))}


@dataclass(slots=True)
class IdleWatch:
    """Finds serving exits whose traffic is the same as at the last look. It begins anew with each holder of the lease."""

    _carried: dict[UUID, int] = field(default_factory=dict)

    def look(self, rows: Sequence[Row]) -> frozenset[UUID] | None:
        """Return the exits that carried nothing since the last look and have no open request; None at the first look."""
        before, self._carried = self._carried, {row["id"]: row["carried_bytes"] for row in rows}
        if not before:
            return None
        return frozenset(
            row["id"] for row in rows if before.get(row["id"]) == row["carried_bytes"] and not row["open_requests"]
        )
