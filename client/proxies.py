"""Proxies: their collection and their configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.features.proxies.schemas import ConfigOut, ProxyIn, ProxyOut, ProxyPatch
from api.http.paths import BASE_PATH
from client.collection import ChangeableCollection
from client.transport import Operation, QueryValue

_CONFIG = Operation("read_config", "GET", f"{BASE_PATH}/proxies/{{proxy_id}}/config", None, ConfigOut)


class ProxiesClient(ChangeableCollection[ProxyIn, ProxyPatch, ProxyOut]):
    """The collection of proxies, with the operation that reads their configuration."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield _CONFIG

    async def config(self, proxy_id: object, *, resource: str | None = None, differences: bool = False) -> ConfigOut:
        """Read the configuration that a proxy has accepted, and the one that it should have."""
        query: dict[str, QueryValue] = {"resource": resource, "differences": differences}
        return (await self._transport.send(_CONFIG, str(proxy_id), query=query)).value
