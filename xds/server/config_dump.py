"""The configuration dump of proxies: what each proxy accepted, next to what it should have, read from its streams."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import structlog

from model.change_feed import CONFIG_REQUEST_CHANNEL, ChangeFeed
from model.database import Database, DatabaseUnreachable
from model.repositories import config_requests
from xds.protocol.stream import ResourceStatus, SyncState
from xds.server.publisher import PendingUpdate, Publisher
from xds.server.recorder import AckRecorder
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView
from xds.translate.names import SECRET
from xds.translate.resource_ids import ResourceId

log = structlog.get_logger()


class ConfigDumpResponder:
    """Answers the `config_requests` of the database for proxies that have a stream here; `run` is its task."""

    def __init__(self, database: Database, publisher: Publisher, recorder: AckRecorder) -> None:
        self._database = database
        self._feed = ChangeFeed(database, CONFIG_REQUEST_CHANNEL)
        self._publisher = publisher
        self._recorder = recorder

    async def run(self) -> None:
        """Answer requests until cancelled. A missed request stays unanswered: the API waits for a short time only."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run(), name="xds.config_requests")
            while True:
                if await self._feed.wait():
                    try:
                        await self._answer()
                    except DatabaseUnreachable:
                        continue
                    except Exception:
                        log.exception("xds.config_request_failed")  # must not end the streams

    async def _answer(self) -> None:
        async with self._database.session() as session:
            for question in await config_requests.unanswered(session, self._publisher.proxies):
                found = [*self._describe(question.proxy_id, question.resource)]
                await config_requests.answer(session, question.id, {"types": found})

    def _describe(self, proxy_id: UUID, content_of: str | None) -> Iterator[dict[str, Any]]:
        for pending in self._publisher.streams_of(proxy_id):
            if pending.stream is not None:
                desired = self._publisher.desired_view(pending)
                for type_url in sorted(pending.stream.subscriptions):
                    statuses = pending.stream.resource_statuses(type_url, desired)
                    resources = [self._as_json(pending, desired, type_url, each, content_of) for each in statuses]
                    yield {"type_url": type_url, "resources": resources}

    def _as_json(
        self, pending: PendingUpdate, desired: ProxyView, type_url: str, status: ResourceStatus, content_of: str | None
    ) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": status.name,
            "status": status.state,
            "desired": status.desired,
            "accepted": status.acknowledged,
            "reason": self._reason(pending, type_url, status),
        }
        if status.name == content_of and type_url != SECRET:  # a private key must not enter the table of answers
            both = desired.get(type_url, status.name), pending.view.get(type_url, status.name)
            found["content"] = {"desired": _body(status.desired, *both), "accepted": _body(status.acknowledged, *both)}
        return found

    def _reason(self, pending: PendingUpdate, type_url: str, status: ResourceStatus) -> str:
        if status.state is SyncState.REJECTED:
            sync_state = self._recorder.sync_states(pending.identity.proxy_id).get(type_url)
            return sync_state.detail if sync_state else ""
        if status.state is SyncState.WITHHELD or status.served != status.desired:
            return self._publisher.withheld_reason(pending, ResourceId(type_url, status.name))
        return ""


def _body(version: str | None, *candidates: Resource | None) -> str | None:
    """Return the body of the candidate that has this version, in base64; None if none has it."""
    for each in candidates:
        if each is not None and each.version == version:
            return b64encode(each.body).decode()
    return None
