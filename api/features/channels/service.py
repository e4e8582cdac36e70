"""Channels: places that messages are sent to. Writes here are not configuration and make no revision."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from api.features.channels.schemas import UNCHANGED, ChannelIn, ChannelOut, ChannelPatch, ChannelQuery
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, in_use
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.apprise_client import understands
from model.audit_log import AuditEntry
from model.channel_urls import WEBHOOK, BadChannelUrl, hosts_of, service_of
from model.repositories import messages
from model.tables import ChannelRow
from xds.translate.forbidden_targets import is_on_exit as is_local


class ChannelCollection(Collection[ChannelRow, ChannelIn, ChannelOut]):
    name, kind = "channels", "channel"
    table, request_model, patch_model, response_model, query_model = (
        ChannelRow,
        ChannelIn,
        ChannelPatch,
        ChannelOut,
        ChannelQuery,
    )
    in_fleets = has_fleet = False

    async def create(self, work: WriteContext, body: ChannelIn) -> ChannelRow:
        """Create a channel. Raises Problem: 422 for a URL that cannot be used, 409 when the name is taken."""
        if body.url == UNCHANGED:
            message = "a new channel needs a URL"
            raise Problem(422, "no_url", message, errors=[FieldError("/url", message, "send it")])
        columns = await _to_columns(work, body.model_dump(), None)
        row = ChannelRow(created_at=work.now, **columns)
        with clashes(_conflicts(body.name)):
            await messages.save(work.session, row)
        work.unit.audit(AuditEntry("created", self.kind, str(row.id), detail={"service": row.service}))
        return row

    async def change(self, work: WriteContext, row: ChannelRow, fields: dict[str, Any]) -> None:
        """Update a channel. Raises Problem as `create` does."""
        columns = await _to_columns(work, fields, row)
        with clashes(_conflicts(fields.get("name", ""))):
            changed = await messages.save_changes(work.session, row, columns)
        if changed:
            work.unit.audit(AuditEntry("changed", self.kind, str(row.id), detail={"fields": sorted(changed)}))

    async def remove(self, work: WriteContext, row: ChannelRow) -> None:
        """Delete a channel. Raises Problem: 409 while rules send to it."""
        hint = "give these rules another channel first: GET /api/v1/message-rules"
        used = in_use("channel", row.name, "rules send to this channel", hint)
        with clashes({"fk_message_rule_channel_channel_id_message_channel": used}):
            await messages.remove(work.session, row)
        work.unit.audit(AuditEntry("deleted", self.kind, str(row.id)))

    async def show(self, look: ReadContext, rows: Sequence[ChannelRow]) -> list[ChannelOut]:  # noqa: ARG002 - the base class's
        return [ChannelOut.of(row) for row in rows]


CHANNELS = ChannelCollection()


async def _to_columns(work: WriteContext, sent: Mapping[str, Any], row: ChannelRow | None) -> dict[str, Any]:
    """Convert the sent fields to columns, with the service that the URL names. Raises Problem (422), without the URL."""
    columns = {name: value for name, value in sent.items() if value != UNCHANGED}
    if "url" in columns:
        columns["service"] = await _check_url(work, columns["url"])
    service = columns.get("service", row.service if row else "")
    if service != WEBHOOK:
        if "signing_key" in columns:
            raise _bad_key("only webhooks are signed", "leave it out")
        return columns | {"signing_key": None}
    if "signing_key" not in columns and (row is None or row.signing_key is None):
        raise _bad_key(
            "a webhook needs a key that signs it", "send 16 random characters or more, which the receiver has too"
        )
    return columns


async def _check_url(work: WriteContext, url: str) -> str:
    try:
        service = service_of(url)
    except BadChannelUrl as error:
        raise _bad_url(error.code, error.message, error.hint) from None
    if not work.allows_local_channels and any(map(is_local, hosts_of(url))):
        hint = "name another host, or set EXITPLANE_LOCAL_CHANNELS for the control plane"
        raise _bad_url("local_channel", "messages are not sent to the control plane's own host or link", hint)
    if service != WEBHOOK and not await asyncio.to_thread(understands, url):
        hint = "see Apprise's documentation of the service"
        raise _bad_url("bad_channel_url", f"Apprise does not understand this URL of {service}://", hint)
    return service


def _bad_url(code: str, message: str, hint: str | None) -> Problem:
    return Problem(422, code, message, errors=[FieldError("/url", message, hint or "")])


def _bad_key(message: str, hint: str) -> Problem:
    return Problem(422, "bad_signing_key", message, errors=[FieldError("/signing_key", message, hint)])


def _conflicts(name: str) -> dict[str, Problem]:
    return {"uq_message_channel_name": duplicate("/name", name, "another channel has this name")}
