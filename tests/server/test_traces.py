"""Traces of a write: the bounds of a publication's spans, and one trace over two replicas, received by a collector."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID, uuid4

import aiohttp
import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from api.runtime.tokens import digest_of, new_key
from model.repositories import authorities, operators
from model.tables import ApiKeyRow, OperatorRow
from model.telemetry.span_export import SpanExport
from model.telemetry.spans import start_span
from tests.conftest import KEY_SETTING
from tests.server.otlp_sink import open_sink
from xds.server import publication_trace
from xds.server.publication_trace import ACKS_MAX, PARENTS_MAX, PublicationTrace, end_open_traces
from xds.translate.names import ENDPOINT

CLIENT_TRACE = "ab" * 16
CLIENT_SPAN = "cd" * 8
STARTUP_S = 240
"""Two processes start at once, on a machine that may be busy."""


# -- the spans of a publication ----------------------------------------------------------------------------------------


class _Exporter(SpanExporter):
    def __init__(self):
        self.spans = []

    def export(self, batch):
        self.spans += batch
        return SpanExportResult.SUCCESS


@pytest.fixture
def exported(monkeypatch):
    """`exported()` ends the export, and returns the spans by name."""
    exporter = _Exporter()
    export = SpanExport("1", "replica", keeps_failed=True, exporter=exporter)

    def end():
        export.shut_down()
        found = {}
        for span in exporter.spans:
            found.setdefault(span.name, []).append(span)
        return found

    yield end
    export.shut_down()


def parent(number=0, *, sampled=True):
    return f"00-{number:016x}{'1' * 16}-{'2' * 16}-{sampled:02x}"


def published(answers, *parents):
    """A publication of commits with these contexts, of which so many answers are expected."""
    trace = PublicationTrace.begin(parents)
    trace.record_translated(1)
    for _ in range(answers):
        trace.expect()
    trace.record_published()
    return trace


def test_publication_lasts_until_its_last_ack(exported):
    trace = published(2, parent())
    trace.record_answer(UUID(int=1), ENDPOINT, None)
    trace.forgo()
    spans = exported()
    (publish,) = spans["xds.publish"]
    (ack,) = spans["xds.ack"]
    assert ack.parent.span_id == publish.context.span_id
    assert ack.attributes == {"exitplane.proxy_id": str(UUID(int=1)), "exitplane.type_url": ENDPOINT}
    assert publish.attributes["exitplane.accepted"] == 1
    assert not publication_trace._open


def test_publication_that_concerns_nobody_ends_at_once(exported):
    published(0, parent())
    assert sorted(exported()) == ["xds.publish", "xds.translate"]


def test_spans_of_acks_are_bounded_and_the_rest_is_counted(exported):
    trace = published(ACKS_MAX + 10, parent())
    for _ in range(ACKS_MAX + 9):
        trace.record_answer(uuid4(), ENDPOINT, None)
    trace.record_answer(uuid4(), ENDPOINT, "secret words of Envoy")
    spans = exported()
    assert len(spans["xds.ack"]) == ACKS_MAX
    (nack,) = spans["xds.nack"]
    assert (nack.status.is_ok, "secret" in nack.to_json()) == (False, False)
    counts = {name.removeprefix("exitplane."): each for name, each in spans["xds.publish"][0].attributes.items()}
    assert counts == {"coalesced_traces": 1, "accepted": ACKS_MAX + 9, "rejected": 1, "pending": 0, "untraced_acks": 9}


def test_coalesced_traces_are_bounded_and_counted(exported):
    published(0, *map(parent, range(PARENTS_MAX + 3)), parent(0))
    spans = exported()["xds.publish"]
    assert len({span.context.trace_id for span in spans}) == len(spans) == PARENTS_MAX
    assert {span.attributes["exitplane.coalesced_traces"] for span in spans} == {PARENTS_MAX + 3}


def test_unsampled_trace_has_spans_only_of_rejections(exported):
    trace = published(2, parent(sampled=False))
    trace.record_answer(UUID(int=1), ENDPOINT, None)
    trace.record_answer(UUID(int=2), ENDPOINT, "no")
    assert sorted(exported()) == ["xds.nack", "xds.publish", "xds.translate"]


def test_open_publications_are_bounded_and_end_with_the_replica(exported):
    for number in range(publication_trace._OPEN_MAX + 1):
        published(1, parent(number))
    assert len(publication_trace._open) == publication_trace._OPEN_MAX
    end_open_traces()
    assert {span.attributes["exitplane.pending"] for span in exported()["xds.publish"]} == {1}


def test_untraced_commits_make_no_publication_trace():
    assert PublicationTrace.begin([]) is None
    assert start_span("work") is None


# -- one trace over two replicas ---------------------------------------------------------------------------------------


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@asynccontextmanager
async def _replica(database_url, **settings):
    """Run `exitplane serve`; yields the ports of API and xDS, and stops it in order."""
    api, xds = _free_port(), _free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXITPLANE_", "OTEL_"))}
    settings |= {"EXITPLANE_API_LISTEN": f"127.0.0.1:{api}", "EXITPLANE_XDS_LISTEN": f"127.0.0.1:{xds}"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "serve"),
        env={**kept, **KEY_SETTING, "EXITPLANE_DATABASE_URL": database_url, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = asyncio.create_task(process.stdout.read())
    try:
        yield SimpleNamespace(api=f"http://127.0.0.1:{api}", ports=[xds], said=said)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0, (await said).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await said
        process._transport.close()


async def _is_ready(session, replica):
    try:
        async with session.get(f"{replica.api}/health/ready") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.postgres
async def test_one_trace_leads_from_request_to_ack_over_replicas(
    fleet_db, database, database_url, authority, connect, has_all, until
):
    """A request to one replica, and a gateway at the other one; both are processes of their own."""
    key = new_key()
    async with database.session() as session:
        await authorities.ensure(session, lambda: authority)
        admin = OperatorRow(name="admin", role="admin", created_at=datetime.now(UTC))
        await operators.save(session, admin)
        row = ApiKeyRow(
            operator_id=admin.id, name="all", digest=digest_of(key), role="admin", created_at=admin.created_at
        )
        await operators.save(session, row)
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(open_sink())
        http = await stack.enter_async_context(aiohttp.ClientSession())
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        here, there = [await stack.enter_async_context(_replica(database_url, **settings)) for _ in range(2)]
        await until(lambda: _is_ready(http, here), timeout_s=STARTUP_S)
        await until(lambda: _is_ready(http, there), timeout_s=STARTUP_S)
        async with connect(there, fleet_db.identity) as gateway:
            await gateway.start()
            await gateway.until(has_all(2))
            headers = {"Authorization": f"Bearer {key}", "traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"}
            exit_url = f"{here.api}/api/v1/exits/{fleet_db.exits['us'].id}"
            async with http.get(exit_url, headers=headers) as response:
                etag = response.headers["ETag"]
            change, sent = {"port": 9443}, gateway.count(ENDPOINT)
            async with http.patch(exit_url, json=change, headers={**headers, "If-Match": etag}) as response:
                assert response.status == 200, await response.text()
            await gateway.until(lambda client: client.count(ENDPOINT) > sent)
            await until(lambda: sink.named("xds.ack", CLIENT_TRACE) and sink.named("xds.publish", CLIENT_TRACE))

    (request,) = sink.named("PATCH /api/v1/exits/{exit_id}", CLIENT_TRACE)
    (transaction,) = sink.named("transaction", CLIENT_TRACE)
    (ack,) = sink.named("xds.ack", CLIENT_TRACE)
    assert (request.parent_id, transaction.parent_id) == (CLIENT_SPAN, request.span_id)
    assert request.attributes["http.response.status_code"] == 200
    published = {span.sender["service.instance.id"]: span for span in sink.named("xds.publish", CLIENT_TRACE)}
    publish = published[ack.sender["service.instance.id"]]
    assert (ack.parent_id, publish.parent_id) == (publish.span_id, transaction.span_id)
    assert ack.attributes["exitplane.proxy_id"] == str(fleet_db.gateway.id)
    assert ack.sender["service.instance.id"] != request.sender["service.instance.id"]
    assert {span.parent_id for span in sink.named("xds.translate", CLIENT_TRACE)} == {transaction.span_id}
    assert {span.sender["service.name"] for span in sink.spans} == {"exitplane"}
    for secret in (key, "9443", str(fleet_db.exits["us"].id)):
        assert secret.encode() not in sink.raw
