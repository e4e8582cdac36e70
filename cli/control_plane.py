"""One replica of the control plane, in one process: the API, the xDS server and the keeper."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import structlog
import uvicorn
import uvloop

from agent.envoy.supervisor import find_envoy
from api.app import create_app
from api.http.connections import BoundedProtocol, close_overdue, server_config
from api.kernel.api_samples import api_samples
from api.kernel.context import ApiContext
from api.runtime.accept_probe import AcceptProbe
from api.runtime.api_certificate import (
    ApiCertificate,
    CertificateFiles,
    CertificateSource,
    IssuedCertificate,
)
from api.runtime.auth_state import AuthState
from api.runtime.certificate_cache import CertificateCache
from api.runtime.heartbeat_sink import HeartbeatSink
from api.runtime.oidc import OidcProvider
from api.runtime.pending_orders import PendingOrders
from cli.gc_tuning import tune_collector
from cli.local_database import connect
from cli.logging import configure_logging
from cli.message_workers import message_workers
from cli.metrics_listener import serve_metrics
from keeper.certificate_folders import run_certificate_folders
from keeper.containers.container_spec import SpecContext
from keeper.containers.reconciler import run_containers
from keeper.counters import KeeperCounters
from keeper.exit_health import HealthThresholds
from keeper.keeper import run_keeper
from keeper.messages.message_counters import MessageCounters
from model import key_file
from model.authority import create_authority
from model.connection_table import ConnectionLimits, ConnectionTable
from model.container_policy import read_policy
from model.current_authority import CurrentAuthority
from model.database import Database
from model.descriptors import raise_limit
from model.embedded_postgres import embedded_server
from model.encryption import Keyring
from model.endpoint import Endpoint, parse_endpoint
from model.errors import ExitplaneError
from model.log_levels import LogLevels
from model.repositories import authorities, sealed_values
from model.schema_version import check_migration, upgrade
from model.settings import BadSettings, Settings, read_settings
from model.telemetry.collector import collector_of
from model.version import exitplane_version
from xds.server.admission import Limits
from xds.server.rollout_controller import CanaryPolicy
from xds.server.samples import XdsSamples
from xds.server.server import XdsServer, run_server
from xds.server.world_watcher import Debounce

if TYPE_CHECKING:
    from model.telemetry.span_export import SpanExport
log = structlog.get_logger()
API_STOP_S = 3
_ACCEPTS_PER_TURN = 16
"""Connections accepted in one turn of the loop. libuv accepts one for each listening handle, so with a single handle new
connections of a busy replica wait for seconds."""


class PortInUse(ExitplaneError):
    code = "port_in_use"


def run() -> None:
    """Run until SIGINT or SIGTERM, with settings from the environment. Raises ExitplaneError."""
    levels = LogLevels()
    configure_logging(levels=levels)
    settings = read_settings()
    levels.change(settings.read_log_levels())
    scheme = "https" if settings.serves_tls else "http"  # before anything listens
    collector_of(os.environ)  # likewise
    with (
        _sockets(settings.api_addresses, "the API", "EXITPLANE_API_LISTEN") as sockets,
        _sockets(settings.metrics_addresses, "the listener of metrics", "EXITPLANE_METRICS_LISTEN") as for_metrics,
        _database_url(settings) as (url, embedded),
    ):
        uvloop.run(_serve(settings, url, sockets, for_metrics, levels, scheme, embedded=embedded))


@contextmanager
def _database_url(settings: Settings) -> Iterator[tuple[str, bool]]:
    """Yield the URL of the database, and True for an embedded one, which runs while the block lasts."""
    if settings.database_url:
        yield settings.database_url, False
        return
    with embedded_server(settings.state_dir) as url:
        yield url, True


@contextmanager
def _sockets(addresses: Sequence[Endpoint], what: str, variable: str) -> Iterator[list[socket.socket]]:
    """Yield listening sockets. Raises PortInUse, which names what should listen, and the variable with its addresses."""
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            try:
                sockets.append(socket.create_server((address.host, address.port), family=_family(address.host)))
            except OSError as error:
                raise PortInUse(
                    f"{what} cannot listen on {address} ({error.strerror})",
                    hint=f"stop the program that uses the port, or set {variable}",
                ) from error
        yield sockets
    finally:
        for each in sockets:
            each.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def _serve(
    settings: Settings,
    url: str,
    sockets: list[socket.socket],
    for_metrics: list[socket.socket],
    levels: LogLevels,
    scheme: str,
    *,
    embedded: bool,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, change_levels, settings, levels)
    keyring = await _open_keyring(settings, url, embedded=embedded)
    database = Database(url, keyring=keyring)
    try:
        async with open_control_plane(settings, database, sockets, for_metrics):
            log.info(
                "serve.started",
                api=settings.api_listen,
                scheme=scheme,
                xds=settings.xds_listen,
                metrics=settings.metrics_listen,
                embedded_postgres=embedded,
            )
            await stop.wait()
            log.info("serve.stopping")
    finally:
        await database.close()


async def _open_keyring(settings: Settings, url: str, *, embedded: bool) -> Keyring:
    """Check or upgrade the schema, and return the keys of the database's secrets, which are created with an embedded one.

    Raises MigrationBehind, MissingEncryptionKey, BadKeyFile and SecretUnreadable.
    """
    async with connect(url) as database:
        await (upgrade(database) if embedded else check_migration(database))
        if embedded and settings.encryption_key is None and not await sealed_values.are_sealed(database):
            key_file.create(key_file.path_of(settings))
    keyring = key_file.read_keyring(settings)
    async with connect(url, keyring) as database:
        if await sealed_values.adopt(database, keyring):
            return keyring
        if embedded:
            log.info("secrets.sealed", count=await sealed_values.seal_all(database, keyring))
        else:
            hint = "when no older control plane runs, seal them with `exitplane encryption rotate --no-new-key`, and restart"
            log.warning("secrets.in_clear", hint=hint)
    return keyring


def change_levels(settings: Settings, levels: LogLevels) -> None:
    """Read the levels of the log again. Those of a file that cannot be read change nothing."""
    try:
        levels.change(settings.read_log_levels())
    except BadSettings as error:
        log.error("log.levels_not_read", reason=error.message)  # noqa: TRY400 - the text says all
    else:
        log.info("log.levels_read")


@asynccontextmanager
async def open_control_plane(
    settings: Settings,
    database: Database,
    sockets: list[socket.socket],
    for_metrics: Sequence[socket.socket] = (),
) -> AsyncIterator[XdsServer]:
    """Run the xDS server, the keeper and the API on a migrated database while the block lasts.

    `sockets` are the API's, and `for_metrics` those of metrics, already listening. Raises BadSettings, BadCertificate, xds.server.server.XdsPortInUse, and EnvoyMissing where
    configuration is to be checked with Envoy.
    """
    async with database.session() as session:
        authority = CurrentAuthority(await authorities.ensure(session, lambda: create_authority(_now())))
        instance = await authorities.instance_name(session)
    certificate = ApiCertificate(_certificate_source(settings, authority), _now) if settings.serves_tls else None
    connections = settings.connection_limits(raise_limit())
    replica = uuid4()
    keeper, messages = KeeperCounters(), MessageCounters()
    async with (
        _spans(settings, replica) as spans,
        run_server(
            database,
            authority,
            [str(address) for address in settings.xds_addresses],
            connections=connections,
            limits=Limits(
                removal_grace_s=settings.removal_grace_s,
                admissions_per_s=settings.admissions_per_s,
                connection_age_s=settings.connection_age_s,
            ),
            debounce=Debounce(floor_s=settings.debounce_floor_s, ceiling_s=settings.debounce_ceiling_s),
            canary=CanaryPolicy(share=settings.canary_share, soak_s=settings.canary_soak_s),
            envoy=find_envoy(None) if settings.check_with_envoy else None,
            replica=replica,
            metrics_address=settings.metrics_target,
        ) as xds,
        _gc_tuning(xds),
        _following(database, authority),
        _keeper(database, settings, keeper),
        message_workers(database, settings, _now, messages),
        _containers(database, authority, instance, settings),
        _certificate_folders(database, settings),
        _api(settings, connections, database, authority, xds, certificate, sockets) as context,
        serve_metrics(
            [*for_metrics],
            database,
            [
                XdsSamples(xds),
                partial(api_samples, context),
                keeper.samples,
                messages.samples,
                authority.samples,
                *([spans.samples] if spans else ()),
            ],
            settings.silence_timeout_s,
        ),
    ):
        yield xds


@asynccontextmanager
async def _spans(settings: Settings, replica: UUID) -> AsyncIterator[SpanExport | None]:
    """Export spans while the block lasts, if OpenTelemetry's variables name a collector. Raises BadCollector."""
    collector = collector_of(os.environ)
    if collector is None:
        yield None
        return
    from model.telemetry.span_export import SpanExport

    spans = SpanExport(exitplane_version(), str(replica), keeps_failed=settings.trace_failures)
    try:
        yield spans
    finally:
        await asyncio.to_thread(spans.shut_down)


@asynccontextmanager
async def _gc_tuning(xds: XdsServer) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(tune_collector(lambda: xds.publisher.streams), name="gc-tuning")
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def _following(database: Database, authority: CurrentAuthority) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(authority.run(database, _now), name="authority")
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def _keeper(database: Database, settings: Settings, counters: KeeperCounters) -> AsyncIterator[None]:
    thresholds = HealthThresholds(
        unreachable_after=timedelta(seconds=settings.silence_timeout_s),
        lost_after=timedelta(seconds=settings.lost_after_s),
    )
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run_keeper(database, _now, thresholds, counters=counters), name="keeper")
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def _containers(
    database: Database, authority: CurrentAuthority, instance: str, settings: Settings
) -> AsyncIterator[None]:
    """Run the keeper of containers while the block lasts, if this replica has a container engine. Raises BadSettings."""
    if settings.container_engine is None:
        yield
        return
    if settings.container_api is None:
        raise BadSettings(
            "EXITPLANE_CONTAINER_ENGINE is set, but EXITPLANE_CONTAINER_API is not",
            hint="set it to the URL under which containers reach this API",
        )
    context = SpecContext(
        instance=instance,
        api=settings.container_api,
        secrets=settings.container_secrets,
        policy=read_policy(settings.container_policy),
        sees_secrets=settings.container_engine.startswith("unix:"),
        api_ca=authority.value.certificate_pem if settings.issues_api_certificate else None,
    )
    async with asyncio.TaskGroup() as tasks:
        work = run_containers(database, settings.container_engine, context, _now)
        task = tasks.create_task(work, name="containers")
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def _certificate_folders(database: Database, settings: Settings) -> AsyncIterator[None]:
    """Take up certificates from folders while the block lasts, if this replica has any."""
    if settings.certificate_folder is None:
        yield
        return
    async with asyncio.TaskGroup() as tasks:
        work = run_certificate_folders(database, settings.certificate_folder, _now)
        task = tasks.create_task(work, name="certificate-folders")
        try:
            yield
        finally:
            task.cancel()


@asynccontextmanager
async def _api(
    settings: Settings,
    connections: ConnectionLimits,
    database: Database,
    authority: CurrentAuthority,
    xds: XdsServer,
    certificate: ApiCertificate | None,
    sockets: list[socket.socket],
) -> AsyncIterator[ApiContext]:
    """Serve the API, over TLS with a certificate, and yield its context. At the end of the block the HTTP server stops first, then received heartbeats are stored."""
    probe = AcceptProbe(sockets, _now, tls=certificate is not None)
    table = ConnectionTable[BoundedProtocol]("api", connections)
    context = _context(settings, database, authority, xds, probe, table)
    app = create_app(context)
    config = server_config(
        app,
        table,
        tls=(lambda: certificate.context) if certificate else None,
        trusted_proxies=settings.trusted_proxies,
        timeout_graceful_shutdown=API_STOP_S,
    )
    server = _Server(config)
    async with asyncio.TaskGroup() as tasks:
        parts = (context.heartbeat_sink, context.certificate_cache, context.pending_orders)
        background = [tasks.create_task(each.run()) for each in parts]
        background += [tasks.create_task(each) for each in (probe.run(), close_overdue(table))]
        if certificate is not None:
            background.append(tasks.create_task(certificate.run()))
        listening = [*sockets, *(each.dup() for each in sockets for _ in range(_ACCEPTS_PER_TURN - 1))]
        serving = tasks.create_task(server.serve(sockets=listening))
        try:
            yield context
        finally:
            app.state.event_hub.close()
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving
            for task in background:
                task.cancel()


def _certificate_source(settings: Settings, authority: CurrentAuthority) -> CertificateSource:
    certificate, key = settings.api_tls_certificate_file, settings.api_tls_key_file
    if certificate is None or key is None:
        return IssuedCertificate(authority, settings.api_hosts)
    return CertificateFiles(certificate, key)


def _context(
    settings: Settings,
    database: Database,
    authority: CurrentAuthority,
    xds: XdsServer,
    probe: AcceptProbe,
    table: ConnectionTable[BoundedProtocol],
) -> ApiContext:
    advertised = parse_endpoint(settings.xds_advertise) if settings.xds_advertise else None
    readiness: dict[str, Callable[[], bool]] = {"xds": lambda: xds.ready}
    oidc = settings.oidc
    return ApiContext(
        database=database,
        authority=authority,
        clock=_now,
        heartbeat_sink=HeartbeatSink(database, replica=str(uuid4()), clock=_now, reached_at=lambda: probe.reached_at),
        certificate_cache=CertificateCache(database),
        pending_orders=PendingOrders(database, _now),
        xds_address=advertised.host if advertised else None,
        xds_port=advertised.port if advertised else xds.ports[0],
        heartbeat_interval_s=settings.heartbeat_interval_s,
        silence_timeout=timedelta(seconds=settings.silence_timeout_s),
        leaf_lifetime=timedelta(hours=settings.certificate_hours),
        allows_local_parents=settings.local_parents,
        allows_local_channels=settings.local_channels,
        container_policy=read_policy(settings.container_policy),
        certificate_folder=settings.certificate_folder,
        auth_state=AuthState(oidc_provider=OidcProvider(oidc) if oidc else None),
        readiness_checks=readiness,
        connection_tables={"api": table, "xds": xds.connections},
    )


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to `_serve`, which stops more than the API."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _now() -> datetime:
    return datetime.now(UTC)
