"""The targets that Prometheus should scrape: living replicas, and Envoys whose agents report an address."""

from __future__ import annotations

from collections.abc import Iterator

from api.features.discovery.schemas import TargetGroupOut
from api.kernel.caller import Caller
from api.kernel.context import ReadContext
from model.repositories import scrape_targets
from model.repositories.scrape_targets import ProxyTarget


async def list_targets(read: ReadContext, caller: Caller) -> list[TargetGroupOut]:
    """List the targets that a caller may see; replicas belong to no fleet, so they need an operator of all fleets."""
    found: list[TargetGroupOut] = []
    if caller.fleets is None:
        replicas = await scrape_targets.of_replicas(read.session)
        found += [_group(each, {"component": "replica"}) for each in replicas]
    proxies = await scrape_targets.of_proxies(read.session, read.alive_since)
    found += [_group(each.address, dict(_labels(each))) for each in proxies if caller.sees(each.fleet_id)]
    return found


def _labels(proxy: ProxyTarget) -> Iterator[tuple[str, str]]:
    yield "component", proxy.role
    yield "fleet", proxy.fleet
    yield "name", proxy.name
    if proxy.pool is not None:
        yield "pool", proxy.pool


def _group(address: str, labels: dict[str, str]) -> TargetGroupOut:
    return TargetGroupOut(
        targets=[address], labels={f"__meta_exitplane_{name}": value for name, value in labels.items()}
    )
