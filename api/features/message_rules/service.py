"""Message rules: which events become messages. Writes here are not configuration and make no revision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from api.features.channels.service import CHANNELS
from api.features.message_rules.schemas import MessageRuleIn, MessageRuleOut, MessageRulePatch, MessageRuleQuery
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, unknown
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.audit_log import AuditEntry
from model.message_events import IDLE_MIN_S, MessageEvent
from model.repositories import messages
from model.tables import MessageRuleRow


class MessageRuleCollection(Collection[MessageRuleRow, MessageRuleIn, MessageRuleOut]):
    name, kind = "message-rules", "message-rule"
    table, request_model, patch_model, response_model, query_model = (
        MessageRuleRow,
        MessageRuleIn,
        MessageRulePatch,
        MessageRuleOut,
        MessageRuleQuery,
    )
    in_fleets = has_fleet = False

    async def create(self, work: WriteContext, body: MessageRuleIn) -> MessageRuleRow:
        """Create a rule. Raises Problem: 422 for an unknown channel, 409 when the name is taken."""
        channels = await _find_channels(work, body.channels)
        row = MessageRuleRow(created_at=work.now, **body.model_dump(exclude={"channels"}))
        _check(row)
        with clashes(_conflicts(body.name)):
            await messages.save(work.session, row)
            await messages.set_channels(work.session, row.id, channels)
        work.unit.audit(AuditEntry("created", self.kind, str(row.id), detail={"name": row.name}))
        return row

    async def change(self, work: WriteContext, row: MessageRuleRow, fields: dict[str, Any]) -> None:
        """Update a rule. What it remembers of subjects stays. Raises Problem as `create` does."""
        refs = fields.pop("channels", None)
        with clashes(_conflicts(fields.get("name", ""))):
            changed = [*await messages.save_changes(work.session, row, fields)]
            if refs is not None:
                wanted = await _find_channels(work, refs)
                stored = (await messages.channels_of(work.session, [row.id])).get(row.id, [])
                if wanted != {channel for channel, _ in stored}:
                    await messages.set_channels(work.session, row.id, wanted)
                    changed.append("channels")
        _check(row)
        if changed:
            work.unit.audit(AuditEntry("changed", self.kind, str(row.id), detail={"fields": sorted(changed)}))

    async def remove(self, work: WriteContext, row: MessageRuleRow) -> None:
        await messages.remove(work.session, row)
        work.unit.audit(AuditEntry("deleted", self.kind, str(row.id)))

    async def show(self, look: ReadContext, rows: Sequence[MessageRuleRow]) -> list[MessageRuleOut]:
        channels = await messages.channels_of(look.session, [row.id for row in rows])
        return [MessageRuleOut.of(row, channels=[name for _, name in channels.get(row.id, ())]) for row in rows]


MESSAGE_RULES = MessageRuleCollection()


async def _find_channels(work: WriteContext, refs: Sequence[str]) -> set[UUID]:
    """Return the ids of the channels that a body names. Raises Problem (422)."""
    return {
        (await CHANNELS.resolve(work.session, work.caller, ref, f"/channels/{index}")).id
        for index, ref in enumerate(refs)
    }


def _check(row: MessageRuleRow) -> None:
    if MessageEvent.EXIT_IDLE in row.events and row.for_s < IDLE_MIN_S:
        message = "traffic is compared every 30 s, so exit_idle needs a longer duration"
        error = FieldError("/for_s", message, f"send at least {IDLE_MIN_S}", row.for_s)
        raise Problem(422, "for_s_too_short", message, errors=[error])


def _conflicts(name: str) -> dict[str, Problem]:
    removed = unknown("channel", "/channels", "", "the channel was removed meanwhile")
    return {
        "uq_message_rule_name": duplicate("/name", name, "another rule has this name"),
        "fk_message_rule_channel_channel_id_message_channel": removed,
    }
