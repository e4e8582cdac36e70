"""Proxies, and the configuration that they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.features.proxies.schemas import ConfigOut, ProxyIn, ProxyOut, ProxyPatch
from api.http.paths import BASE_PATH
from client.collection import ChangeableCollection
from client.transport import Operation, Value

_CONFIG = Operation("read_config", "GET", f"{BASE_PATH}/proxies/{{proxy_id}}/config", None, ConfigOut)


class ProxiesClient(ChangeableCollection[ProxyIn, ProxyPatch, ProxyOut]):
    """Proxies, and what they hold."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield _CONFIG

    async def config(self, proxy_id: object, *, resource: str | None = None, differences: bool = False) -> ConfigOut:
        """What a proxy holds, and what it should hold, as of now."""
        query: dict[str, Value] = {"resource": resource, "differences": differences}
        return (await self._transport.send(_CONFIG, str(proxy_id), query=query)).value
