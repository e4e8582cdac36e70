"""The agent process: enrols, runs Envoy and the relay, sends heartbeats, and stops in order."""

from __future__ import annotations

import asyncio
import json
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from agent.ads.connection_cutter import ConnectionCutter
from agent.ads.marked_forwarder import marked_socket
from agent.ads.relay import Relay
from agent.config.identity import Enrolment
from agent.config.settings import AgentSettings
from agent.config.state_dir import StateDir
from agent.config.status import StatusBoard, wait
from agent.control import log_buffer
from agent.control.api_client import ApiClient, trust
from agent.control.enrolment import ensure_enrolled
from agent.control.heartbeat import HeartbeatSender
from agent.control.orders import Handler, OrderFailed, Orders
from agent.control.renewal import Renewal
from agent.control.signed_client import Deregistered, SignedClient
from agent.egress.observer import Observer
from agent.egress.speed import SpeedTest, SpeedUnknown
from agent.envoy.admin import Admin, AdminUnreachable
from agent.envoy.bootstrap import UNUSED_COLLECTOR, Bootstrap, limit_connections, render
from agent.envoy.envoy_stats import LoadReader
from agent.envoy.health_check import HealthCheck
from agent.envoy.leak_cutoff import cut_when_leaking
from agent.envoy.process import read_descriptor_limit
from agent.envoy.secrets import write_secrets
from agent.envoy.silent_exits import end_unanswered_requests
from agent.envoy.stalled_connects import end_stalled_connects
from agent.envoy.supervisor import EnvoyCommand, EnvoySupervisor, find_envoy
from agent.gluetun.client import GluetunClient
from agent.gluetun.server_change import rotate as rotate_gluetun
from agent.net.netlink import count_network_changes
from agent.net.packet_marks import BYPASS_MARK, CLIENT_MARK
from agent.rotation import RequestDrain, Rotation, TunnelRotation
from agent.vpn.managed_tunnel import ManagedTunnel
from agent.vpn.tunnel_health import PERIOD_S, HealthProbe, TunnelMonitor, probes_of
from model.endpoint import Endpoint
from model.entities import Role
from model.errors import ExitplaneError

log = structlog.get_logger()

LAST_HEARTBEAT_S: Final = 5.0
"""The time limit of the last heartbeat. A control plane that does not get it offers the exit until its silence is noticed."""
DRAIN_S: Final = 5.0
"""The default wait for open tunnels at the end, meanwhile: less than the 10 s that container engines wait."""
_POLL_S: Final = 0.1


class StopRequest:
    """A request to stop. A second request means: do not wait for open tunnels."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.urgent = asyncio.Event()

    def request(self) -> None:
        (self.urgent if self.requested.is_set() else self.requested).set()


async def serve(settings: AgentSettings) -> None:
    """Run an agent until SIGTERM or SIGINT. Raises ExitplaneError if it cannot start or was deregistered."""
    stop = StopRequest()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.request)
    await run_agent(settings, stop)


async def run_agent(settings: AgentSettings, stop: StopRequest, checks: Sequence[HealthProbe] | None = None) -> None:
    """Run an agent until `stop` is requested. `checks` replace those of the exit's settings. Raises as `serve` does."""
    folder = StateDir(settings.state)
    with folder.locked():
        factory = marked_socket if settings.kill_switch else None
        # One connection for each request, because the server may close a kept one just when it is needed.
        connector = aiohttp.TCPConnector(force_close=True, socket_factory=factory)
        async with aiohttp.ClientSession(connector=connector) as session:
            await _Agent(settings, folder, session, checks).run(stop)


class _Agent:
    """One run of an agent: its parts, and the tasks that they run in."""

    def __init__(
        self,
        settings: AgentSettings,
        folder: StateDir,
        session: aiohttp.ClientSession,
        checks: Sequence[HealthProbe] | None,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._api = ApiClient(session, settings.api, tls=trust(settings))
        self._board = StatusBoard()
        self._tunnel = self._build_tunnel()
        self._resolvers = settings.exit.resolvers if settings.exit else ()
        self._resolvers_known = asyncio.Event()
        self._enrolment: Enrolment | None = None
        probes = probes_of(settings.exit) if settings.exit else []
        if self._tunnel is not None:
            probes = self._tunnel.probes()
        self._monitor = TunnelMonitor(probes if checks is None else checks, self._board, PERIOD_S)
        self._observer: Observer | None = None
        self._speed_test: SpeedTest | None = None
        if settings.exit is not None and settings.exit.sources:
            active = self._tunnel.active if self._tunnel else None
            self._observer = Observer(settings.exit, self._board, active=active)
            self._speed_test = SpeedTest(settings.exit, self._board, active=active)
        self._heartbeat: HeartbeatSender | None = None
        self._relay: Relay | None = None
        self._supervisor: EnvoySupervisor | None = None

    async def run(self, stop: StopRequest) -> None:
        try:
            await self._run_until(stop)
            await self._shut_down(stop)
        finally:
            if self._supervisor is not None:
                await self._supervisor.stop()
            if self._tunnel is not None:
                await self._tunnel.stop()
            if self._relay is not None:  # last, so that Envoy keeps its configuration while it stops
                await self._relay.stop()

    async def _run_until(self, stop: StopRequest) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(self._run_tasks(), name="agent")
                await stop.requested.wait()
                running.cancel()
        except BaseExceptionGroup as group:
            raise _unwrap(group) from group

    async def _run_tasks(self) -> None:
        envoy = find_envoy(self._settings.envoy)
        orders = Orders(self._board, self._build_handlers())
        async with asyncio.TaskGroup() as tasks, aclosing(orders):
            if self._tunnel is not None:
                await self._tunnel.start(tasks)
            enrolment = await ensure_enrolled(self._settings, self._folder, self._api)
            client = SignedClient(replace(self._api, tls=trust(self._settings, enrolment)), enrolment)
            renewal = Renewal(client, self._folder, partial(self._use_certificate, client))
            if renewal.is_expired:
                await renewal.attempt()
                enrolment = client.enrolment
            if self._tunnel is not None:
                await self._tunnel.kill_switch.allow_control(enrolment.xds)
            self._write_secrets(enrolment)
            self._relay = Relay(enrolment, self._folder, marked=self._settings.kill_switch)
            await self._relay.start()
            self._enrolment = enrolment
            self._supervisor = EnvoySupervisor(await self._build_command(envoy, enrolment), self._folder, self._board)
            if enrolment.role is Role.EXIT:
                self._heartbeat = HeartbeatSender(
                    client,
                    self._board,
                    orders=orders,
                    load=LoadReader(self._supervisor),
                    renewal=renewal,
                    metrics=self._settings.advertised_metrics,
                )
                tasks.create_task(cut_when_leaking(self._board, self._supervisor), name="leaks")
                await self._monitor.observe()
                tasks.create_task(self._monitor.run(), name="tunnel")
                if self._observer is not None and self._speed_test is not None:
                    tasks.create_task(count_network_changes(self._board), name="network")
                    tasks.create_task(self._observer.run(), name="observer")
                    tasks.create_task(self._speed_test.run(), name="speed test")
                tasks.create_task(HealthCheck(self._supervisor, self._board).run(), name="health check")
                if self._settings.exit is not None and self._settings.exit.parent is not None:
                    parent = self._settings.exit.parent.endpoint
                    tasks.create_task(
                        end_stalled_connects(parent, self._board, self._supervisor), name="stalled connects"
                    )
            else:
                cutter = ConnectionCutter(self._relay.record, self._board)
                self._heartbeat = HeartbeatSender(
                    client, self._board, cutter=cutter, renewal=renewal, metrics=self._settings.advertised_metrics
                )
                tasks.create_task(cutter.run(), name="cutter")
                tasks.create_task(end_unanswered_requests(self._supervisor), name="silent exits")
            tasks.create_task(self._run_envoy(self._supervisor), name="envoy")
            tasks.create_task(self._heartbeat.run(), name="heartbeat")
            tasks.create_task(renewal.run(), name="renewal")

    def _write_secrets(self, enrolment: Enrolment) -> None:
        """Write the files with key and certificates that Envoy watches. Raises StateDirUnusable."""
        write_secrets(
            self._folder,
            key_pem=enrolment.key_pem,
            certificate_pem=enrolment.certificate_pem,
            authority_pem=enrolment.authority_pem,
        )

    def _use_certificate(self, client: SignedClient, enrolment: Enrolment) -> None:
        """Use a renewed certificate from now on, without a restart or a drain. Raises StateDirUnusable."""
        self._write_secrets(enrolment)
        if self._relay is not None:
            self._relay.use(enrolment)
        client.use(enrolment, trust(self._settings, enrolment))

    def _build_handlers(self) -> Mapping[str, Handler]:
        """Return the handlers of operators' orders."""
        return {
            "logs": partial(log_buffer.read, self._folder),
            "speed-test": self._measure_speed,
            "rotate": self._rotate,
        }

    async def _rotate(self, detail: Mapping[str, Any]) -> Mapping[str, Any]:
        """Move to another server, and keep the current one until the new one is verified if both fit."""
        if self._tunnel is not None and self._tunnel.can_rotate_seamlessly:
            observe = self._observer.observe_candidate if self._observer else None
            return await TunnelRotation(self._tunnel, observe, RequestDrain(lambda: self._supervisor))(detail)
        return await Rotation(self._board, lambda: self._supervisor, self._change_server)(detail)

    async def _change_server(self) -> str:
        """Move gluetun or the managed tunnel to another server; return its name. Raises ExitplaneError."""
        exit_ = self._settings.exit
        if exit_ is not None and exit_.gluetun is not None:
            return await rotate_gluetun(GluetunClient(exit_.gluetun))
        if self._tunnel is not None:
            return await self._tunnel.rotate()
        raise OrderFailed("the agent does not manage this tunnel", hint="change the server where the tunnel is started")

    async def _measure_speed(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._speed_test is None:
            raise OrderFailed("this agent measures no speed", hint="start the agent with --observe and --speed-url")
        try:
            speed = await self._speed_test.measure()
        except SpeedUnknown as error:
            raise OrderFailed(error.message, hint=error.hint) from error
        observation = self._board.report.observation
        return {
            "download_mbps": speed.download_mbps,
            "upload_mbps": speed.upload_mbps,
            "rtt_ms": None if observation is None else observation.rtt_ms,
        }

    # -- the managed tunnel or its kill switch

    def _build_tunnel(self) -> ManagedTunnel | None:
        exit_ = self._settings.exit
        if exit_ is None or not (exit_.servers or exit_.kill_switch):
            return None
        api = Endpoint(self._settings.api.host or "", self._settings.api.port or 0)
        control = [api, self._settings.otlp] if self._settings.otlp else [api]
        ports = () if self._settings.metrics is None else (self._settings.metrics.port,)
        return ManagedTunnel(exit_, control, self._folder.path, self._board, self._use_resolvers, ports=ports)

    async def _use_resolvers(self, resolvers: tuple[str, ...]) -> None:
        """Use these resolvers from now on; Envoy is restarted if they differ from the previous ones."""
        self._resolvers = resolvers
        self._resolvers_known.set()
        if self._supervisor is not None and self._enrolment is not None:
            await self._supervisor.relaunch(
                await self._build_command(find_envoy(self._settings.envoy), self._enrolment)
            )

    async def _run_envoy(self, supervisor: EnvoySupervisor) -> None:
        """Run Envoy once the resolvers are known, because they are part of its bootstrap."""
        if self._settings.exit is not None and self._settings.exit.servers and not self._resolvers:
            await self._resolvers_known.wait()
        await supervisor.run()

    # -- Envoy

    async def _build_command(self, envoy: Path, enrolment: Enrolment) -> EnvoyCommand:
        bootstrap = await self._render_bootstrap(enrolment)
        return EnvoyCommand(envoy, self._build_arguments(), bootstrap, enrolment.role is Role.EXIT)

    async def _render_bootstrap(self, enrolment: Enrolment) -> str:
        connections_max = limit_connections(read_descriptor_limit())
        xds, otlp = enrolment.xds, self._settings.otlp or UNUSED_COLLECTOR
        exit_ = self._settings.exit
        if self._tunnel is not None and self._resolvers:
            xds, otlp = (
                await self._tunnel.kill_switch.resolve_endpoint(xds),
                await self._tunnel.kill_switch.resolve_endpoint(otlp),
            )
        bootstrap = Bootstrap(
            role=enrolment.role,
            node_id=enrolment.id,
            fleet_id=enrolment.fleet_id,
            xds=(xds,),
            otlp=otlp,
            max_downstream_connections=self._settings.max_downstream_connections or connections_max,
            resolvers=self._resolvers,
            mark=BYPASS_MARK if self._settings.kill_switch else None,
            interface=exit_.bound_interface if exit_ else None,
            client_mark=CLIENT_MARK if exit_ and exit_.marks_clients else None,
            metrics=self._settings.metrics,
        )
        return json.dumps(render(bootstrap), indent=2)

    def _build_arguments(self) -> tuple[str, ...]:
        # "immediate" tells all clients of a draining listener to close with their next response, not gradually
        arguments = ["--log-level", self._settings.envoy_log_level, "--drain-strategy", "immediate"]
        if self._settings.drain_time_s is not None:
            arguments += ["--drain-time-s", str(math.ceil(self._settings.drain_time_s))]
        if self._settings.concurrency is not None:
            arguments += ["--concurrency", str(self._settings.concurrency)]
        return tuple(arguments)

    async def _shut_down(self, stop: StopRequest) -> None:
        """Fail the health check, then send a last heartbeat and wait for open tunnels, both at once."""
        if self._heartbeat is None or self._supervisor is None:
            return
        log.info("agent.stopping")
        admin = self._supervisor.admin
        if admin is not None and self._settings.role is Role.EXIT:
            with suppress(AdminUnreachable):
                await admin.fail_health_check()
        await asyncio.gather(self._send_last_heartbeat(self._heartbeat), self._drain(admin, stop))

    async def _send_last_heartbeat(self, heartbeat: HeartbeatSender) -> None:
        with suppress(TimeoutError, Deregistered):
            async with asyncio.timeout(LAST_HEARTBEAT_S):
                await heartbeat.send(stopping=True)

    async def _drain(self, admin: Admin | None, stop: StopRequest) -> None:
        """Wait until no request is open, the drain time is over, or a second stop request arrives."""
        if admin is None:
            return
        with suppress(AdminUnreachable):
            await self._drain_envoy(admin, stop)

    async def _drain_envoy(self, admin: Admin, stop: StopRequest) -> None:
        if self._settings.role is Role.GATEWAY:
            await admin.drain_listeners()
        loop = asyncio.get_running_loop()
        limit_s = DRAIN_S if self._settings.drain_time_s is None else self._settings.drain_time_s
        deadline_s = loop.time() + limit_s
        while (open_ := await admin.count_open_requests()) > 0:
            if loop.time() >= deadline_s or await wait(stop.urgent, _POLL_S):
                log.warning("agent.tunnels_cut", open=open_)
                return


def _unwrap(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error if the group holds only ExitplaneErrors, else the group itself."""
    errors = list(_iterate_leaves(group))
    known = all(isinstance(error, ExitplaneError) for error in errors)
    return errors[0] if known else group


def _iterate_leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for part in error.exceptions:
        yield from _iterate_leaves(part)
