"""The xDS server of one replica: its port, its parts and their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
from cryptography import x509

from model.authority import issue_server
from model.change_feed import ChangeFeed
from model.connection_table import ConnectionLimits, ConnectionTable
from model.current_authority import CurrentAuthority
from model.database import Database
from model.errors import ExitplaneError
from xds.server.admission import MAX_REQUEST_BYTES, ConnectionAge, Limits
from xds.server.config_dump import ConfigDumpResponder
from xds.server.connection_guard import ConnectionGuard
from xds.server.counters import XdsCounters
from xds.server.discovery_service import DiscoveryService
from xds.server.envoy_validator import EnvoyValidator
from xds.server.publication_trace import end_open_traces
from xds.server.publisher import Publisher
from xds.server.recorder import AckRecorder
from xds.server.rollout_controller import CanaryPolicy, RolloutController
from xds.server.world_watcher import Debounce, WorldWatcher

SHUTDOWN_S: Final = 3.0
_LIMITS, _CONNECTIONS, _DEBOUNCE, _CANARY = Limits(), ConnectionLimits(), Debounce(), CanaryPolicy()
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share its clients silently
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # default: a minute; gRPC waits for the longer of the two
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # a proxy has one stream, or one for each type; gRPC buffers what a client leaves unread of each
    ("grpc.max_concurrent_streams", 100),
)


class XdsPortInUse(ExitplaneError):
    code = "port_in_use"


@dataclass(frozen=True, slots=True)
class XdsServer:
    """A running xDS server."""

    publisher: Publisher
    ports: Sequence[int]
    connections: ConnectionTable[int]
    counters: XdsCounters
    feed: ChangeFeed

    @property
    def ready(self) -> bool:
        """True once the World is loaded, so that streams are served."""
        return self.publisher.world is not None


@asynccontextmanager
async def run_server(
    database: Database,
    authority: CurrentAuthority,
    addresses: Sequence[str],
    *,
    limits: Limits = _LIMITS,
    connections: ConnectionLimits = _CONNECTIONS,
    debounce: Debounce = _DEBOUNCE,
    canary: CanaryPolicy = _CANARY,
    envoy: Path | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    replica: UUID | None = None,
    metrics_address: str | None = None,
) -> AsyncIterator[XdsServer]:
    """Serve xDS on `addresses` (host:port; port 0 for any) while the block lasts. Raises XdsPortInUse.

    `metrics_address` is where Prometheus scrapes this replica. `envoy` is an Envoy binary: if given, `envoy --mode validate` must accept each change-set before it is released.
    """
    replica, feed = replica or uuid4(), ChangeFeed(database)
    counters = XdsCounters()
    recorder = AckRecorder(database, replica, clock, counters, metrics_address)
    publisher = Publisher(recorder, counters=counters, canaries=canary.enabled)
    validator = EnvoyValidator(envoy, authority, publisher) if envoy else None
    controller = RolloutController(publisher, database, replica, canary, clock, validator, counters)
    config_dump = ConfigDumpResponder(database, publisher, recorder)
    watcher = WorldWatcher(database, feed, publisher, debounce)
    guard = ConnectionGuard(connections)
    service = DiscoveryService(database, publisher, recorder, limits, watcher.catch_up, guard, counters)
    server = grpc.aio.server(
        options=[*_OPTIONS, *ConnectionAge(limits.connection_age_s).options, *guard.options(len(addresses))]
    )
    server.add_generic_rpc_handlers(service.handlers())
    # gRPC wants a certificate for each port first, and asks whether it changed at handshakes
    ports = [_bind(server, each, _Credentials(authority, clock).server_credentials()) for each in addresses]
    guard.ports = ports
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(feed.run(), name="xds.change_feed"),
            tasks.create_task(watcher.run(), name="xds.world_watcher"),
            tasks.create_task(recorder.run(), name="xds.recorder"),
            tasks.create_task(controller.run(), name="xds.rollout_controller"),
            tasks.create_task(config_dump.run(), name="xds.config_dump"),
            tasks.create_task(service.enforce_timeouts(), name="xds.timeouts"),
            tasks.create_task(guard.run(), name="xds.connection_guard"),
        ]
        if validator is not None:
            running.append(tasks.create_task(validator.run(), name="xds.envoy_validator"))
        await server.start()
        try:
            yield XdsServer(publisher, ports, guard.table, counters, feed)
        finally:
            service.shut_down()
            await server.stop(SHUTDOWN_S)
            for task in running:
                task.cancel()
            end_open_traces()


class _Credentials:
    """TLS with a certificate of the current authority, which is issued anew when that changes, or as time goes by."""

    def __init__(self, authority: CurrentAuthority, clock: Callable[[], datetime]) -> None:
        self._authority = authority
        self._clock = clock
        self._version = ""
        self._renew_at = clock()

    def server_credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self.read_changed(), self.read_changed, require_client_authentication=True
        )

    def read_changed(self) -> Any:
        """Return the certificate for handshakes from now on; None: the last one stays. gRPC calls it at each handshake."""
        authority, now = self._authority.value, self._clock()
        if authority.version == self._version and now < self._renew_at:
            return None
        pair = issue_server(authority, now)
        expires = x509.load_pem_x509_certificate(pair.certificate_pem.encode()).not_valid_after_utc
        self._version, self._renew_at = authority.version, now + (expires - now) * 2 / 3
        return grpc.ssl_server_certificate_configuration(
            [(pair.key_pem.encode(), pair.certificate_pem.encode())],
            root_certificates=authority.certificate_pem.encode(),
        )


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    try:
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise XdsPortInUse(
            f"xDS cannot listen on {address}", hint="end the process that uses the port, or set EXITPLANE_XDS_LISTEN"
        ) from error
