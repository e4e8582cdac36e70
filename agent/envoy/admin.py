"""Envoy's admin interface, on loopback."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import aiohttp

from xds.translate import names

_TIMEOUT: Final = aiohttp.ClientTimeout(total=2, connect=1)
_MEASURED: Final = r"(downstream_rq_active|upstream_cx_(rx|tx)_bytes_total)$"
_CARRIED: Final = re.compile(
    rf"^cluster\.(?:{names.TARGETS}|{names.PARENT})\.upstream_cx_[rt]x_bytes_total: (\d+)$", re.MULTILINE
)
_OPEN_REQUESTS: Final = re.compile(r"^http\.(?!admin\.)\S+\.downstream_rq_active: (\d+)$", re.MULTILINE)


class AdminUnreachable(Exception):
    """Envoy's admin interface did not answer, or not with 200."""


@dataclass(frozen=True, slots=True)
class Admin:
    """Asks the Envoy whose admin interface is at `address` (`ip:port`). Every method raises AdminSilent."""

    session: aiohttp.ClientSession
    address: str

    async def is_live(self) -> bool:
        """Whether Envoy has its configuration and serves by it, even while its health check is failed."""
        info = json.loads(await self._ask("GET", "/server_info"))
        return info.get("state") in {"LIVE", "DRAINING"}

    async def fail_health_check(self) -> None:
        """From now on the health check filter answers 503, and every answer says so too."""
        await self._ask("POST", "/healthcheck/fail")

    async def pass_health_check(self) -> None:
        await self._ask("POST", "/healthcheck/ok")

    async def drain_listeners(self) -> None:
        """Tell clients to go elsewhere, while their open tunnels go on."""
        await self._ask("POST", "/drain_listeners?graceful")

    async def open_requests(self) -> int:
        """How many requests and tunnels are open."""
        open_, _ = await self.measure()
        return open_

    async def measure(self) -> tuple[int, int]:
        """How many requests and tunnels are open, and the bytes carried to and from targets since Envoy was started."""
        stats = await self._ask("GET", "/stats?filter=" + quote(_MEASURED))
        return sum(int(count) for count in _OPEN_REQUESTS.findall(stats)), sum(map(int, _CARRIED.findall(stats)))

    async def _ask(self, method: str, path: str) -> str:
        try:
            async with self.session.request(method, f"http://{self.address}{path}", timeout=_TIMEOUT) as response:
                text = await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise AdminUnreachable(f"{path}: {error}") from error
        if response.status != 200:
            raise AdminUnreachable(f"{path}: {response.status}")
        return text
