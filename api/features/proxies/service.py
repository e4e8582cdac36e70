"""Proxies: the Envoys of gateways and exits. Enrolment creates them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from api.features.proxies.schemas import (
    LastHeartbeatOut,
    ProxyIn,
    ProxyOut,
    ProxyPatch,
    ProxyQuery,
    RevisionTimeOut,
    SyncOut,
    SyncStatus,
)
from api.features.rejections.service import load_rejections
from api.http.field_errors import FieldError
from api.http.paths import PATH_FIELDS
from api.http.problems import Problem, in_use
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.entities import Role
from model.repositories import declared, heartbeats, rollout, sync
from model.tables import HeartbeatRow, ProxyRow, SyncRow


class ProxyCollection(Collection[ProxyRow, ProxyIn, ProxyOut]):
    name, kind = "proxies", "proxy"
    table, request_model, patch_model, response_model, query_model = ProxyRow, ProxyIn, ProxyPatch, ProxyOut, ProxyQuery
    has_name = False
    volatile = frozenset({"connected", "last_heartbeat", "sync", "rejections", "rejects_accepted"})

    async def change(self, work: WriteContext, row: ProxyRow, fields: dict[str, Any]) -> None:
        """Update a proxy. Raises Problem: 409 for the Envoy of an exit, which changes with the exit."""
        if row.role == Role.EXIT:
            message, hint = "this is the Envoy of an exit", f"change the exit: PATCH /api/v1/exits/{row.id}"
            error = FieldError(PATH_FIELDS["proxy"], message, hint, str(row.id))
            raise Problem(409, "envoy_of_exit", message, errors=[error])
        await declared.save_changes(work.unit, row, fields)

    async def remove(self, work: WriteContext, row: ProxyRow) -> None:
        """Deregister a gateway. Raises Problem: 409 for the Envoy of an exit."""
        if row.role == Role.EXIT:
            hint = f"remove the exit: DELETE /api/v1/exits/{row.id}"
            raise in_use("proxy", str(row.id), "this is the Envoy of an exit", hint)
        await declared.remove(work.unit, row)
        await heartbeats.forget(work.session, row.id)
        await sync.forget(work.session, row.id)
        await rollout.forget_rejections_by(work.unit, row.id)
        work.add_removed_proxy(row.id)

    async def show(self, look: ReadContext, rows: Sequence[ProxyRow]) -> list[ProxyOut]:
        ids = [row.id for row in rows]
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        beats = await heartbeats.of_proxies(look.session, ids)
        sync_states = await sync.of_proxies(look.session, ids)
        rejections = await load_rejections(look.session)
        return [
            ProxyOut.of(
                row,
                role=Role(row.role),
                fleet=owners[row.fleet_id],
                connected=_is_connected(beats.get(row.id), look.alive_since),
                last_heartbeat=_show_heartbeat(beats.get(row.id)),
                sync=[show_sync(each) for each in sync_states.get(row.id, ())],
                rejections=(rejected := rejections.by_proxy(row.id)),
                rejects_accepted=any(each.accepted_by_others for each in rejected),
            )
            for row in rows
        ]


PROXIES = ProxyCollection()


def _is_connected(beat: HeartbeatRow | None, heard_since: datetime) -> bool:
    return beat is not None and beat.heard_at >= heard_since and not beat.stopping


def _show_heartbeat(row: HeartbeatRow | None) -> LastHeartbeatOut | None:
    if row is None:
        return None
    return LastHeartbeatOut(
        at=row.heard_at,
        tunnel="up" if row.tunnel_up else "down",
        envoy="up" if row.envoy_up else "down",
        stopping=row.stopping,
        reason=row.reason,
        version=row.version,
    )


def show_sync(row: SyncRow) -> SyncOut:
    """Convert the sync state of a proxy for one type."""
    return SyncOut(
        type_url=row.type_url,
        status=_status(row),
        connected=row.replica is not None,
        desired=_at_revision(row.wanted_revision, row.wanted_at),
        sent=_at_revision(row.sent_revision, row.sent_at),
        acknowledged=_at_revision(row.accepted_revision, row.accepted_at),
        rejected=_at_revision(row.rejected_revision, row.rejected_at),
        detail=row.detail,
    )


def _status(row: SyncRow) -> SyncStatus:
    accepted, rejected = row.accepted_revision or 0, row.rejected_revision or 0
    if rejected > accepted:
        return "rejected"
    return "accepted" if row.accepted_revision is not None and accepted >= row.wanted_revision else "pending"


def _at_revision(revision: int | None, at: datetime | None) -> RevisionTimeOut | None:
    return None if revision is None or at is None else RevisionTimeOut(revision=revision, at=at)
