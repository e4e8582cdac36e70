"""The end of open connections of gateways that an exit does not admit any more.

Envoy refuses their handshakes and their requests, but tunnels that are open go on. It reports its open requests every 10 s, with the
name of the peer and the two ends of the connection, so that no other gateway behind the same address is hit
(docs/decisions/0052-removed-gateways-lose-their-connections.md).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, NamedTuple

import grpc
import structlog

from agent.ads.config_record import AcceptedResource, ConfigRecord
from agent.net.ss import reset, ss
from xds.translate.names import GATEWAYS_SECRET, SECRET
from xds.wire.accesslog_pb2 import AccessLogCommon, SocketAddress, StreamAccessLogsMessage
from xds.wire.template_pb2 import Secret

log = structlog.get_logger()

_SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"


class GatewayConnection(NamedTuple):
    """The name in a gateway's certificate, and both ends of one of its connections, as `ss` writes them."""

    gateway: str
    local: str
    peer: str


class RemovedGateways:
    """Receives Envoy's entries (envoy.service.accesslog.v3) and ends connections of gateways that the accepted list lacks."""

    def __init__(self, record: ConfigRecord) -> None:
        self._record = record
        self._parsed: tuple[AcceptedResource, frozenset[str]] | None = None

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """The handler for the server on the agent's socket."""
        method = grpc.stream_unary_rpc_method_handler(self._receive)
        return grpc.method_handlers_generic_handler(_SERVICE, {"StreamAccessLogs": method})

    async def _receive(self, messages: AsyncIterator[bytes], _: Any) -> bytes:
        async for raw in messages:
            await self.cut(raw)
        return b""

    async def cut(self, raw: bytes) -> None:
        """Reset the connections in a StreamAccessLogsMessage whose gateways are not admitted."""
        admitted = self._read_admitted()
        if admitted is None:
            return
        for each in frozenset(each for each in read_connections(raw) if each.gateway not in admitted):
            await reset(each.local, each.peer)
            if await ss("src", each.local, "dst", each.peer):
                hint = "run the agent with CAP_NET_ADMIN in Envoy's network namespace"
                log.error("gateway.connection_not_cut", gateway=each.gateway, connection=each.peer, hint=hint)
            else:
                log.warning("gateway.connection_cut", gateway=each.gateway, connection=each.peer)

    def _read_admitted(self) -> frozenset[str] | None:
        """Return the names of the gateways that Envoy admits; None without a list."""
        accepted = self._record.types.get(SECRET, {}).get(GATEWAYS_SECRET)
        if accepted is None:
            return None
        if self._parsed is None or self._parsed[0] is not accepted:
            matchers = Secret.FromString(accepted.body).validation_context.match_typed_subject_alt_names
            self._parsed = accepted, frozenset(each.matcher.exact for each in matchers)
        return self._parsed[1]


def read_connections(raw: bytes) -> Iterator[GatewayConnection]:
    """Yield the connections in a StreamAccessLogsMessage. One without a peer's name is left out."""
    for entry in StreamAccessLogsMessage.FromString(raw).http_logs.log_entry:
        common: AccessLogCommon = entry.common_properties
        for name in common.tls_properties.peer_certificate_properties.subject_alt_name:
            if name.uri:
                local, peer = common.downstream_local_address, common.downstream_direct_remote_address
                yield GatewayConnection(name.uri, _write(local.socket_address), _write(peer.socket_address))


def _write(address: SocketAddress) -> str:
    host = f"[{address.address}]" if ":" in address.address else address.address
    return f"{host}:{address.port_value}"
