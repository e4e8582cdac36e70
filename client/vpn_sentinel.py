"""What clients of VPN Sentinel send and ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.features.keepalives.schemas import KeepaliveIn, KeepaliveOut, SentinelClientOut
from api.http.paths import BASE_PATH
from client.transport import Operation, Transport

_KEEPALIVE = Operation("send_keepalive", "POST", f"{BASE_PATH}/keepalive", KeepaliveIn, KeepaliveOut)
_STATUS = Operation("read_status", "GET", f"{BASE_PATH}/status", None, dict[str, SentinelClientOut])


class VpnSentinelClient:
    """VPN Sentinel's two endpoints."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def operations(self) -> Iterator[Operation[Any]]:
        yield from (_KEEPALIVE, _STATUS)

    async def keepalive(self, said: KeepaliveIn) -> KeepaliveOut:
        """Say that a client lives."""
        return (await self._transport.send(_KEEPALIVE, body=said)).value

    async def status(self) -> dict[str, SentinelClientOut]:
        """All clients by id, as they were heard last."""
        return (await self._transport.send(_STATUS)).value
