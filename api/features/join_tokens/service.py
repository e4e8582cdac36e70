"""Join tokens: who made them, how often they were used, and their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select
from sqlmodel import col

from api.features.fleets import service as fleets
from api.features.join_tokens.schemas import JoinTokenIn, JoinTokenOut, JoinTokenPatch, JoinTokenQuery, TokenState
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.audit_log import AuditEntry
from model.entities import Role
from model.repositories import declared, join_tokens
from model.tables import JoinTokenRow
from model.token_rights import TokenRights


class JoinTokenCollection(Collection[JoinTokenRow, JoinTokenIn, JoinTokenOut]):
    name, kind = "join-tokens", "join-token"
    table, request_model, patch_model, response_model, query_model = (
        JoinTokenRow,
        JoinTokenIn,
        JoinTokenPatch,
        JoinTokenOut,
        JoinTokenQuery,
    )
    has_name = False
    volatile = frozenset({"state", "uses_left", "last_used_at", "last_used_by", "token"})
    sort = "-created_at"
    deletion = (
        "Revoke {one}: nobody can register with it from now on. It stays in the list until it would have expired."
    )

    def sortable(self) -> Mapping[str, Any]:
        return {**super().sortable(), "expires_at": col(JoinTokenRow.expires_at)}

    async def add(self, work: WriteContext, body: JoinTokenIn) -> tuple[JoinTokenRow, str]:
        """Create a token; return its row and the secret. Raises Problem: 422 for a fleet that the caller does not see."""
        fleet = await fleets.refer(work.session, body.fleet, caller=work.caller)
        row, secret = await join_tokens.create(
            work.session,
            TokenRights(fleet.id, Role(body.role), body.proxy, body.takes_over, body.uses),
            work.now,
            name=body.name or "",
            lifetime=timedelta(seconds=body.expires_in_s),
            created_by=work.caller.operator_id,
        )
        detail = body.model_dump(mode="json", include={"role", "proxy", "takes_over", "uses", "expires_in_s"})
        work.unit.audit(AuditEntry("created", self.kind, str(row.id), fleet.id, detail | {"name": row.name}))
        return row, secret

    async def remove(self, work: WriteContext, row: JoinTokenRow) -> None:
        """Revoke a token. It stays in the list until it would have expired."""
        if row.revoked_at is None:
            row.revoked_at = work.now
            await work.unit.flush()
            work.unit.audit(AuditEntry("revoked", self.kind, str(row.id), row.fleet_id, {"name": row.name}))

    async def show(self, look: ReadContext, rows: Sequence[JoinTokenRow]) -> list[JoinTokenOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        return [
            JoinTokenOut.of(
                row,
                fleet=owners[row.fleet_id],
                role=Role(row.role),
                state=_state(row, look.now),
                proxy=row.proxy_name,
                uses_left=None if row.uses is None else row.uses - row.used,
                token=None,
            )
            for row in rows
        ]

    def _select(self) -> Select[Any]:
        return super()._select().where(col(JoinTokenRow.id).is_not(None))  # the others are of release 0.1.0


def _state(row: JoinTokenRow, now: datetime) -> TokenState:
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at <= now:
        return "expired"
    return "used-up" if row.uses is not None and row.used >= row.uses else "valid"


JOIN_TOKENS = JoinTokenCollection()
