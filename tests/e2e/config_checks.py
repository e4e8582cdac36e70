"""Invariants of a gateway's Envoy: it uses what the API declares. And samples of how long its clusters and listeners warm."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from xds.translate import names

WARMING = "^(cluster_manager.warming_clusters|listener_manager.total_listeners_warming)$"
ResourceKey: TypeAlias = tuple[str, str]
"""Type URL and name."""


@dataclass(frozen=True)
class DumpedConfig:
    """The configuration that an Envoy uses."""

    versions: dict[ResourceKey, str]
    bodies: dict[ResourceKey, Any]
    """Clusters, listeners, routes and extensions by type URL and name."""
    endpoints: dict[str, set[str]]
    """Names of exits by cluster."""
    warming: set[str]


def parse_dump(text: str) -> DumpedConfig:
    """Parse the answer to `/config_dump?include_eds`."""
    versions: dict[ResourceKey, str] = {}
    bodies: dict[ResourceKey, Any] = {}
    endpoints, warming = {}, set()

    def add(type_url: str, name: str, entry: dict[str, Any], body: Any) -> None:
        versions[type_url, name], bodies[type_url, name] = entry["version_info"], body

    for dump in json.loads(text)["configs"]:
        for each in dump.get("dynamic_active_clusters", ()):
            add(names.CLUSTER, each["cluster"]["name"], each, each["cluster"])
        warming |= {each["cluster"]["name"] for each in dump.get("dynamic_warming_clusters", ())}
        for each in dump.get("dynamic_listeners", ()):
            if "active_state" in each:
                add(names.LISTENER, each["name"], each["active_state"], each["active_state"]["listener"])
            if "warming_state" in each or "error_state" in each:
                warming.add(each["name"])
        for each in dump.get("dynamic_route_configs", ()):
            add(names.ROUTE, each["route_config"]["name"], each, each["route_config"])
        for each in dump.get("ecds_filters", ()):
            add(names.EXTENSION, each["ecds_filter"]["name"], each, each["ecds_filter"])
        for each in dump.get("dynamic_endpoint_configs", ()):
            config = each["endpoint_config"]
            hosts = [host for group in config.get("endpoints", ()) for host in group.get("lb_endpoints", ())]
            endpoints[config["cluster_name"]] = {host["endpoint"]["hostname"] for host in hosts}
    return DumpedConfig(versions, bodies, endpoints, warming)


@dataclass(frozen=True)
class DeclaredConfig:
    """Names that the API declares: exits by the cluster of their pool, and listeners."""

    endpoints: dict[str, set[str]]
    listeners: set[str]

    def problems(self, used: DumpedConfig) -> list[str]:
        """Compare with what an Envoy uses."""
        clusters = {name for type_url, name in used.versions if type_url == names.CLUSTER}
        pools = {name for name in clusters if name.startswith(names.POOL_PREFIX)}
        listeners = {name for type_url, name in used.versions if type_url == names.LISTENER}
        endpoints = {name: hosts for name, hosts in used.endpoints.items() if name in self.endpoints}
        pairs = {
            "clusters": (pools, {*self.endpoints}),
            "endpoints": (endpoints, self.endpoints),
            "listeners": (listeners, self.listeners),
        }
        found = [f"{what}: {held} instead of {wanted}" for what, (held, wanted) in pairs.items() if held != wanted]
        return [*found, f"warming: {sorted(used.warming)}"] if used.warming else found


def differing(used: Mapping[ResourceKey, Any], wanted: Mapping[ResourceKey, Any]) -> list[str]:
    """Name the resources that differ between two tables, with the beginning of what each has."""
    return sorted(
        f"{type_url.rpartition('.')[2]} {name}: {_brief(used, type_url, name)} instead of {_brief(wanted, type_url, name)}"
        for type_url, name in {*used, *wanted}
        if used.get((type_url, name)) != wanted.get((type_url, name))
    )


def _brief(table: Mapping[ResourceKey, Any], type_url: str, name: str) -> str:
    return str(table.get((type_url, name)))[:60]


async def read_admin(port: int, path: str) -> str:
    """Query the admin interface of an Envoy."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nAccept-Encoding: identity\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
    if b"transfer-encoding: chunked" in head.lower():
        body = b"".join(_chunks(body))
    return body.decode()


def _chunks(body: bytes) -> list[bytes]:
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(body[:length])
        body = body[length + 2 :]
    return parts


@dataclass
class WarmingWatch:
    """Samples of how long Envoys keep clusters or listeners warming."""

    ports: dict[str, int]
    """Admin ports by name of the Envoy."""
    longest_s: dict[str, float] = field(default_factory=dict)
    """The longest time without a sample that showed nothing warming."""

    async def run(self, every_s: float = 0.2) -> None:
        """Sample until cancelled."""
        await asyncio.gather(*(self._watch(name, port, every_s) for name, port in self.ports.items()))

    async def _watch(self, name: str, port: int, every_s: float) -> None:
        idle_at = time.monotonic()
        while True:
            await asyncio.sleep(every_s)
            lines = (await read_admin(port, f"/stats?filter={WARMING}")).splitlines()
            now = time.monotonic()
            if sum(int(line.rpartition(": ")[2]) for line in lines if line) == 0:
                idle_at = now
            self.longest_s[name] = max(self.longest_s.get(name, 0.0), now - idle_at)
