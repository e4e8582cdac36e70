"""Metrics of a running control plane with a gateway: what /metrics says, and what Prometheus's discovery lists."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime
from functools import partial

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.runtime.tokens import digest_of, new_key
from cli.control_plane import open_control_plane
from model.repositories import authorities, operators
from model.settings import Settings
from model.tables import ApiKeyRow, OperatorRow
from model.telemetry.metrics import METRICS, MetricKind

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
COLLECTOR_NEEDED = {"exitplane_traces_spans_total"}
"""Metrics without a series unless a collector is set. All others begin at 0, because `increase()` misses the first event of a new series."""


@pytest.fixture
async def plane(fleet_db, database, authority, until):
    """The control plane of a process, with its listener of metrics; yields the xDS server and the metrics' URL."""
    async with database.session() as session:
        await authorities.ensure(session, lambda: authority)
    listening, for_metrics = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{for_metrics.getsockname()[1]}"
    settings = Settings(xds_listen="127.0.0.1:0", metrics_listen=address, debounce_floor_s=0)
    with listening, for_metrics:
        async with open_control_plane(settings, database, [listening], [for_metrics]) as xds:
            await until(lambda: xds.ready)
            yield xds, f"http://{address}", f"http://127.0.0.1:{listening.getsockname()[1]}"


async def fetch(url, **headers):
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.text(), response.content_type


async def scrape(url):
    status, text, content_type = await fetch(f"{url}/metrics")
    assert (status, content_type) == (200, "text/plain")
    return {family.name: family for family in text_string_to_metric_families(text)}


async def scrape_when_settled(url):
    """Return the metrics once the keeper holds its lease and the replica has recorded that it hears; None before."""
    found = await scrape(url)
    hears = any(family.samples for name, family in found.items() if name == "exitplane_ingest_watermark_age_seconds")
    return found if hears and value(found, "keeper_leader") == 1 else None


def value(families, name, **labels):
    (found,) = [
        each.value
        for family in families.values()
        for each in family.samples
        if each.name == f"exitplane_{name}" and labels.items() <= each.labels.items()
    ]
    return found


async def test_metrics_of_a_running_system(plane, fleet_db, connect, has_all, until):
    """One scene: a gateway connects, accepts a change, rejects another one, and answers with an old nonce."""
    xds, metrics_url, api_url = plane
    async with connect(xds, fleet_db.identity) as client:
        await client.start()
        await client.until(has_all(2))
        before = await scrape(metrics_url)
        await fleet_db.change(fleet_db.exits["us"], port=9443)
        changed = await client.read()
        await client.accept(changed)
        await until(lambda: xds.counters.convergence_s[changed.type_url].count == 1)
        await client.ask(changed.type_url, response_nonce="old")
        await fleet_db.change(fleet_db.exits["de"], port=9443)
        await client.reject(await client.read(), "no")
        await until(lambda: xds.counters.nacks[changed.type_url] == 1)
        await fetch(f"{api_url}/health")
        await fetch(f"{api_url}/no/such/path")
        found = await until(partial(scrape_when_settled, metrics_url))

    series = {each.name for family in found.values() for each in family.samples}
    suffixes = {MetricKind.HISTOGRAM: "_bucket", MetricKind.COUNTER: "", MetricKind.GAUGE: ""}
    assert {each.name for each in METRICS if each.name + suffixes[each.kind] not in series} == COLLECTOR_NEEDED
    declared = {each.name.removesuffix("_total") for each in METRICS}
    assert {name for name in found if name.startswith("exitplane_")} == declared

    assert value(found, "xds_proxies", role="gateway") == value(found, "xds_streams") == 1
    assert value(found, "xds_streams_admitted_total") == 1
    assert value(found, "xds_pushes_total", type="eds") - value(before, "xds_pushes_total", type="eds") == 2
    assert value(found, "xds_nacks_total", type="eds") == value(found, "xds_expired_nonces_total") == 1
    assert value(found, "xds_convergence_seconds_count", type="eds") == 1
    assert value(found, "xds_publications_total") >= 2
    assert value(found, "xds_updates_total") >= 2
    assert value(found, "xds_pending_streams") == 0
    assert value(found, "xds_revision") == value(found, "revision") > value(before, "xds_revision")
    assert value(found, "xds_snapshot_resources", type="eds") == 2
    assert value(found, "exits", fleet="demo", pool="us", state="healthy") == 1
    assert value(found, "xds_nacks_total", type="cds") == value(found, "xds_streams_refused_total", reason="rate") == 0
    assert value(found, "gateways", fleet="demo", state="silent") == 1
    assert value(found, "certificate_expiry_timestamp_seconds", kind="authority") > time.time()
    assert value(found, "exit_observations", result="none") == 2
    assert value(found, "database_up") == value(found, "keeper_leader") == 1
    assert value(found, "listen_connected", listener="xds") == value(found, "listen_connected", listener="keeper") == 1
    assert value(found, "api_request_seconds_count", route="/health", status="2xx") == 1
    assert value(found, "api_request_seconds_count", route="none", status="4xx") == 1
    for text in (str(fleet_db.gateway.id), "us-1", "198.51.100.1", "/no/such/path"):
        assert text not in str([each.labels for family in found.values() for each in family.samples])


async def test_listener_of_metrics_serves_nothing_else(plane):
    _, metrics_url, api_url = plane
    assert (await fetch(f"{metrics_url}/health"))[0] == (await fetch(f"{metrics_url}/"))[0] == 404
    assert (await fetch(f"{api_url}/metrics"))[0] == 401


async def test_metrics_without_postgresql_keep_the_rest(plane, monkeypatch):
    _, metrics_url, _ = plane
    monkeypatch.setattr("model.repositories.gauges._QUERY", "SELECT pg_sleep(30 + $1)")
    monkeypatch.setattr("model.repositories.gauges._TIMEOUT_S", 0.05)
    found = await scrape(metrics_url)
    assert value(found, "database_up") == 0
    assert found["exitplane_exits"].samples == []
    assert value(found, "xds_streams") == 0


async def test_discovery_lists_replicas_and_reporting_proxies(plane, fleet_db, database, until):
    """Prometheus needs a credential with the scope, and learns of an exit once its agent reports an address."""
    _, metrics_url, api_url = plane
    url, keys = f"{api_url}/api/v1/discovery/prometheus", {}
    async with database.session() as session:
        viewer = OperatorRow(name="prometheus", role="viewer", created_at=datetime.now(UTC))
        await operators.save(session, viewer)
        for scope in ("discovery:read", "pools:read"):
            keys[scope] = new_key()
            row = ApiKeyRow(
                operator_id=viewer.id,
                name=scope,
                digest=digest_of(keys[scope]),
                role="viewer",
                scopes=[scope],
                created_at=viewer.created_at,
            )
            await operators.save(session, row)
    assert (await fetch(url))[0] == 401
    assert (await fetch(url, Authorization=f"Bearer {keys['pools:read']}"))[0] == 403

    async def targets():
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers={"Authorization": f"Bearer {keys['discovery:read']}"}) as response,
        ):
            assert (response.status, response.content_type) == (200, "application/json")
            return await response.json()

    here = [{"targets": [metrics_url.removeprefix("http://")], "labels": {"__meta_exitplane_component": "replica"}}]
    await until(targets)
    assert await targets() == here
    await database.fetch(
        "INSERT INTO heartbeat (proxy_id, heard_at, tunnel_up, envoy_up, leaving, reason, version, metrics_address)"
        " VALUES ($1, now(), true, true, false, '', '', '192.0.2.7:9902'), ($2, now(), true, true, false, '', '', NULL)",
        fleet_db.exits["us"].id,
        fleet_db.exits["de"].id,
    )
    labels = {"component": "exit", "fleet": "demo", "name": "us-1", "pool": "us"}
    exit_target = {
        "targets": ["192.0.2.7:9902"],
        "labels": {f"__meta_exitplane_{name}": each for name, each in labels.items()},
    }
    assert await targets() == [*here, exit_target]
