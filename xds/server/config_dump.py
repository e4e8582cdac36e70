"""Answers what a proxy holds, beside what it should hold, from the streams of this replica."""

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
from xds.protocol.stream import Holding, Progress
from xds.server.publisher import PendingUpdate, Publisher
from xds.server.recorder import AckRecorder
from xds.snapshot.resource import Resource
from xds.snapshot.snapshot import ProxyView
from xds.translate.names import SECRET
from xds.translate.scopes import ResourceId

log = structlog.get_logger()


class ConfigDumpResponder:
    """Answers the questions of `model.repositories.config_requests` that concern proxies with a stream here; `run` is its task."""

    def __init__(self, database: Database, publisher: Publisher, recorder: AckRecorder) -> None:
        self._database = database
        self._feed = ChangeFeed(database, CONFIG_REQUEST_CHANNEL)
        self._publisher = publisher
        self._recorder = recorder

    async def run(self) -> None:
        """Answer until cancelled. A question that is missed goes unanswered: whoever asked does not wait for long."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed.run(), name="xds.questions")
            while True:
                if await self._feed.wait():
                    try:
                        await self._answer()
                    except DatabaseUnreachable:
                        continue
                    except Exception:
                        log.exception("xds.question_unanswered")  # the streams matter more

    async def _answer(self) -> None:
        async with self._database.session() as session:
            for question in await config_requests.unanswered(session, self._publisher.proxies):
                found = [*self._describe(question.proxy_id, question.resource)]
                await config_requests.answer(session, question.id, {"types": found})

    def _describe(self, proxy_id: UUID, content_of: str | None) -> Iterator[dict[str, Any]]:
        for box in self._publisher.connected(proxy_id):
            if box.stream is not None:
                wanted = self._publisher.wanted(box)
                for type_url in sorted(box.stream.subscriptions):
                    holdings = box.stream.holdings(type_url, wanted)
                    shown = [self._show(box, wanted, type_url, each, content_of) for each in holdings]
                    yield {"type_url": type_url, "resources": shown}

    def _show(
        self, box: PendingUpdate, wanted: ProxyView, type_url: str, holding: Holding, content_of: str | None
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "name": holding.name,
            "progress": holding.progress,
            "wanted": holding.wanted,
            "held": holding.held,
            "reason": self._reason(box, type_url, holding),
        }
        if holding.name == content_of and type_url != SECRET:  # no private key in a table of answers
            both = wanted.get(type_url, holding.name), box.view.get(type_url, holding.name)
            shown["content"] = {"wanted": _body(holding.wanted, *both), "held": _body(holding.held, *both)}
        return shown

    def _reason(self, box: PendingUpdate, type_url: str, holding: Holding) -> str:
        if holding.progress is Progress.REJECTED:
            standing = self._recorder.standings(box.identity.proxy_id).get(type_url)
            return standing.detail if standing else ""
        if holding.progress is Progress.WITHHELD or holding.given != holding.wanted:
            return self._publisher.why_withheld(box, ResourceId(type_url, holding.name))
        return ""


def _body(version: str | None, *candidates: Resource | None) -> str | None:
    """The bytes of a version in base64, if one of these is that."""
    for each in candidates:
        if each is not None and each.version == version:
            return b64encode(each.body).decode()
    return None
