"""The client of Envoy's admin interface, on a Unix socket in the state folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import aiohttp

from agent.config import state_dir as files
from agent.config.state_dir import StateDir
from xds.translate import names

_TIMEOUT: Final = aiohttp.ClientTimeout(total=2, connect=1)
_STATS_FILTER: Final = r"(downstream_rq_active|upstream_cx_(rx|tx)_bytes_total)$"
_CARRIED_BYTES: Final = re.compile(
    rf"^cluster\.(?:{names.TARGETS}|{names.PARENT})\.upstream_cx_[rt]x_bytes_total: (\d+)$", re.MULTILINE
)
_EXITS: Final = re.compile(rf"^cluster\.{names.POOL_PREFIX}\S+\.membership_(\w+): (\d+)$", re.MULTILINE)
_SILENT_EXIT: Final = re.compile(rf"^{names.POOL_PREFIX}[^:]+::(.+)::health_flags::\S*/active_hc_timeout", re.MULTILINE)
_OPEN_REQUESTS: Final = re.compile(r"^http\.(?!admin\.|metrics\.)\S+\.downstream_rq_active: (\d+)$", re.MULTILINE)


class AdminUnreachable(Exception):
    """Envoy's admin interface did not answer, or not with 200."""


@dataclass(slots=True, eq=False)  # two Envoys in one folder, one after the other, are not the same
class Admin:
    """A client of the admin interface of the Envoy in a state folder. Every method raises AdminUnreachable."""

    folder: StateDir

    async def is_live(self) -> bool:
        """Return whether Envoy has its configuration, also while its health check is failed (state DRAINING)."""
        info = json.loads(await self._request("GET", "/server_info"))
        return info.get("state") in {"LIVE", "DRAINING"}

    async def fail_health_check(self) -> None:
        """Make the health check filter answer 503, and add x-envoy-immediate-health-check-fail to every response."""
        await self._request("POST", "/healthcheck/fail")

    async def pass_health_check(self) -> None:
        await self._request("POST", "/healthcheck/ok")

    async def drain_listeners(self) -> None:
        """Start a graceful drain: clients are told to close, and open tunnels continue."""
        await self._request("POST", "/drain_listeners?graceful")

    async def count_open_requests(self) -> int:
        """Return the number of open requests and tunnels."""
        open_, _ = await self.read_load()
        return open_

    async def read_load(self) -> tuple[int, int]:
        """Return the number of open requests and tunnels, and the bytes to and from targets since Envoy started."""
        stats = await self._request("GET", "/stats?filter=" + quote(_STATS_FILTER))
        return sum(int(count) for count in _OPEN_REQUESTS.findall(stats)), sum(map(int, _CARRIED_BYTES.findall(stats)))

    async def list_silent_exits(self) -> frozenset[str]:
        """Return the addresses (`ip:port`) of exits whose health checks time out: their Envoy or their host does not answer."""
        stats = await self._request("GET", "/stats?filter=" + quote(r"\.membership_(healthy|degraded|total)$"))
        if sum(int(count) if kind == "total" else -int(count) for kind, count in _EXITS.findall(stats)) <= 0:
            return frozenset()  # the list of all exits is long
        clusters = await self._request("GET", "/clusters?filter=" + quote(f"^{names.POOL_PREFIX}"))
        return frozenset(_SILENT_EXIT.findall(clusters))

    async def _request(self, method: str, path: str) -> str:
        try:
            with self.folder.short_path(files.ADMIN_SOCKET) as socket:
                connector = aiohttp.UnixConnector(path=socket)
                async with (
                    aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session,
                    session.request(method, f"http://envoy{path}") as response,
                ):
                    text = await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise AdminUnreachable(f"{path}: {error}") from error
        if response.status != 200:
            raise AdminUnreachable(f"{path}: {response.status}")
        return text
