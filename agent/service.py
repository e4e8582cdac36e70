"""An agent's life: enrol, run Envoy, watch, tell, and end in order."""

from __future__ import annotations

import asyncio
import json
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from agent.ads.connection_cutter import ConnectionCutter
from agent.ads.marked_forwarder import marked_socket
from agent.ads.relay import Relay
from agent.config.settings import AgentSettings
from agent.config.state_dir import StateDir
from agent.config.status import StatusBoard, wait
from agent.control import log_buffer
from agent.control.api_client import ApiClient
from agent.control.enrolment import Enrolment, ensure_enrolled
from agent.control.heartbeat import Deregistered, HeartbeatSender
from agent.control.orders import Handler, OrderFailed, Orders
from agent.egress.observer import Observer
from agent.egress.speed import SpeedTest, SpeedUnknown
from agent.envoy.admin import Admin, AdminUnreachable
from agent.envoy.bootstrap import CONNECTIONS_MAX, UNUSED_COLLECTOR, Bootstrap, render
from agent.envoy.envoy_stats import LoadReader
from agent.envoy.health_check import HealthCheck
from agent.envoy.leak_cutoff import cut_when_leaking
from agent.envoy.process import descriptors_max
from agent.envoy.secrets import write_secrets
from agent.envoy.stalled_connects import end_unanswered
from agent.envoy.supervisor import EnvoyCommand, EnvoySupervisor, find_envoy
from agent.gluetun.client import GluetunClient
from agent.gluetun.server_change import rotate as rotate_gluetun
from agent.memory import give_back
from agent.net.netlink import note_changes
from agent.rotation import RequestDrain, Rotation, TunnelRotation
from agent.vpn.firewall.rules import MARK
from agent.vpn.managed_tunnel import ManagedTunnel
from agent.vpn.tunnel_health import PERIOD_S, HealthProbe, TunnelMonitor, checks_of
from model.endpoint import Endpoint
from model.entities import Role
from model.errors import ExitplaneError

log = structlog.get_logger()

LAST_WORD_S: Final = 1.0
"""How long the last heartbeat may take."""
DRAIN_S: Final = 5.0
"""How long open tunnels hold up the end, unless somebody says otherwise: less than the 10 s that container engines wait."""
_POLL_S: Final = 0.1


class StopReason:
    """The wish that an agent end, and, when it is wished again, that it not wait for open tunnels."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.urged = asyncio.Event()

    def ask(self) -> None:
        (self.urged if self.asked.is_set() else self.asked).set()


async def serve(settings: AgentSettings) -> None:
    """Be an agent until SIGTERM or SIGINT. Raises ExitplaneError when it cannot be one, or must not be any longer."""
    stop = StopReason()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.ask)
    await run_agent(settings, stop)


async def run_agent(settings: AgentSettings, stop: StopReason, checks: Sequence[HealthProbe] | None = None) -> None:
    """The same until `stop`. `checks` replace those that an exit's settings ask for."""
    folder = StateDir(settings.state)
    with folder.held():
        factory = marked_socket if settings.kill_switch else None
        # A connection for each request: one that is kept may be closed by the other side just when it is needed.
        connector = aiohttp.TCPConnector(force_close=True, socket_factory=factory)
        async with aiohttp.ClientSession(connector=connector) as session:
            await _Agent(settings, folder, session, checks).live(stop)


class _Agent:
    def __init__(
        self,
        settings: AgentSettings,
        folder: StateDir,
        session: aiohttp.ClientSession,
        checks: Sequence[HealthProbe] | None,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._session = session
        self._plane = ApiClient(session, settings.api)
        self._board = StatusBoard()
        self._tunnel = self._managed_tunnel()
        self._resolvers = settings.exit.resolvers if settings.exit else ()
        self._resolvable = asyncio.Event()
        self._enrolment: Enrolment | None = None
        watched = checks_of(settings.exit) if settings.exit else []
        if self._tunnel is not None:
            watched = self._tunnel.checks()
        self._watch = TunnelMonitor(watched if checks is None else checks, self._board, PERIOD_S)
        self._observer: Observer | None = None
        self._speedometer: SpeedTest | None = None
        if settings.exit is not None and settings.exit.sources:
            course = self._tunnel.course if self._tunnel else None
            self._observer = Observer(settings.exit, self._board, course=course)
            self._speedometer = SpeedTest(settings.exit, self._board, course=course)
        self._heart: HeartbeatSender | None = None
        self._relay: Relay | None = None
        self._supervisor: EnvoySupervisor | None = None

    async def live(self, stop: StopReason) -> None:
        try:
            await self._work_until(stop)
            await self._leave(stop)
        finally:
            if self._supervisor is not None:
                await self._supervisor.stop()
            if self._tunnel is not None:
                await self._tunnel.end()
            if self._relay is not None:  # last: an Envoy that ends in order is configured until its end
                await self._relay.stop()

    async def _work_until(self, stop: StopReason) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(self._work(), name="agent")
                await stop.asked.wait()
                work.cancel()
        except BaseExceptionGroup as group:
            raise _only_reason(group) from group

    async def _work(self) -> None:
        envoy = find_envoy(self._settings.envoy)
        orders = Orders(self._board, self._handlers())
        async with asyncio.TaskGroup() as tasks, aclosing(orders):
            if self._tunnel is not None:
                await self._tunnel.begin(tasks)
            enrolment = await ensure_enrolled(self._settings, self._folder, self._plane)
            if self._tunnel is not None:
                await self._tunnel.guard.admit(enrolment.xds)
            write_secrets(
                self._folder,
                key_pem=enrolment.key_pem,
                certificate_pem=enrolment.certificate_pem,
                authority_pem=enrolment.authority_pem,
            )
            self._relay = Relay(enrolment, self._folder, marked=self._settings.kill_switch)
            await self._relay.start()
            self._enrolment = enrolment
            self._supervisor = EnvoySupervisor(
                await self._launch(envoy, enrolment), self._folder, self._session, self._board
            )
            if enrolment.role is Role.EXIT:
                self._heart = HeartbeatSender(
                    self._plane, enrolment, self._board, orders=orders, load=LoadReader(self._supervisor)
                )
                tasks.create_task(cut_when_leaking(self._board, self._supervisor), name="leaks")
                await self._watch.observe()
                tasks.create_task(self._watch.run(), name="tunnel")
                if self._observer is not None and self._speedometer is not None:
                    tasks.create_task(note_changes(self._board), name="network")
                    tasks.create_task(self._observer.run(), name="observer")
                    tasks.create_task(self._speedometer.run(), name="speedometer")
                tasks.create_task(HealthCheck(self._supervisor, self._board).run(), name="health check")
                if self._settings.exit is not None and self._settings.exit.parent is not None:
                    place = self._settings.exit.parent.place
                    tasks.create_task(end_unanswered(place, self._board, self._supervisor), name="unanswered")
            else:
                cutter = ConnectionCutter(self._relay.record, self._board)
                self._heart = HeartbeatSender(self._plane, enrolment, self._board, cutter=cutter)
                tasks.create_task(cutter.run(), name="cutter")
            tasks.create_task(self._run_envoy(self._supervisor), name="envoy")
            tasks.create_task(self._heart.run(), name="heartbeat")
            tasks.create_task(give_back(), name="memory")

    def _handlers(self) -> Mapping[str, Handler]:
        """What operators may ask of an exit's agent."""
        return {
            "logs": partial(log_buffer.tell, self._folder),
            "speed-test": self._measure_speed,
            "rotate": self._rotate,
        }

    async def _rotate(self, detail: Mapping[str, Any]) -> Mapping[str, Any]:
        """Another server: beside the present one, which serves until it is verified, where there is room for both."""
        if self._tunnel is not None and self._tunnel.has_room_beside:
            look = self._observer.look_ahead if self._observer else None
            return await TunnelRotation(self._tunnel, look, RequestDrain(lambda: self._supervisor))(detail)
        return await Rotation(self._board, lambda: self._supervisor, self._take_another)(detail)

    async def _take_another(self) -> str:
        """Another server or address, of whatever the tunnel is. Raises ExitplaneError."""
        exit_ = self._settings.exit
        if exit_ is not None and exit_.gluetun is not None:
            return await rotate_gluetun(GluetunClient(exit_.gluetun))
        if self._tunnel is not None:
            return await self._tunnel.rotate()
        raise OrderFailed("the tunnel is not the agent's to change", hint="ask whoever brings it up")

    async def _measure_speed(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._speedometer is None:
            raise OrderFailed("nothing is measured here", hint="start the agent with --observe and --speed-url")
        try:
            speed = await self._speedometer.measure()
        except SpeedUnknown as error:
            raise OrderFailed(error.message, hint=error.hint) from error
        seen = self._board.report.observation
        return {
            "download_mbps": speed.download_mbps,
            "upload_mbps": speed.upload_mbps,
            "rtt_ms": None if seen is None else seen.rtt_ms,
        }

    # -- the tunnel, where the agent brings it up or closes the way beside it

    def _managed_tunnel(self) -> ManagedTunnel | None:
        exit_ = self._settings.exit
        if exit_ is None or not (exit_.servers or exit_.kill_switch):
            return None
        api = Endpoint(self._settings.api.host or "", self._settings.api.port or 0)
        control = [api, self._settings.otlp] if self._settings.otlp else [api]
        return ManagedTunnel(exit_, control, self._folder.path, self._board, self._use_resolvers)

    async def _use_resolvers(self, resolvers: tuple[str, ...]) -> None:
        """Names are asked of these from now on, which takes another Envoy when they are others than before."""
        self._resolvers = resolvers
        self._resolvable.set()
        if self._supervisor is not None and self._enrolment is not None:
            await self._supervisor.relaunch(await self._launch(find_envoy(self._settings.envoy), self._enrolment))

    async def _run_envoy(self, supervisor: EnvoySupervisor) -> None:
        """Not before it is known whom an exit's Envoy may ask for names."""
        if self._settings.exit is not None and self._settings.exit.servers and not self._resolvers:
            await self._resolvable.wait()
        await supervisor.run()

    # -- Envoy

    async def _launch(self, envoy: Path, enrolment: Enrolment) -> EnvoyCommand:
        bootstrap = await self._bootstrap(enrolment)
        return EnvoyCommand(envoy, self._arguments(), bootstrap, enrolment.role is Role.EXIT)

    async def _bootstrap(self, enrolment: Enrolment) -> str:
        # descriptors are left for what is not a client: connections to exits or targets, logs, the control plane
        affordable = min(CONNECTIONS_MAX, descriptors_max() * 3 // 4)
        xds, otlp = enrolment.xds, self._settings.otlp or UNUSED_COLLECTOR
        if self._tunnel is not None and self._resolvers:
            xds, otlp = await self._tunnel.guard.address_of(xds), await self._tunnel.guard.address_of(otlp)
        bootstrap = Bootstrap(
            role=enrolment.role,
            node_id=enrolment.id,
            fleet_id=enrolment.fleet_id,
            xds=(xds,),
            otlp=otlp,
            max_downstream_connections=self._settings.max_downstream_connections or affordable,
            resolvers=self._resolvers,
            mark=MARK if self._settings.kill_switch else None,
        )
        return json.dumps(render(bootstrap), indent=2)

    def _arguments(self) -> tuple[str, ...]:
        # Immediate: clients of a listener that ends are told to go elsewhere with their next answer, not by and by.
        arguments = ["--log-level", self._settings.envoy_log_level, "--drain-strategy", "immediate"]
        if self._settings.drain_time_s is not None:
            arguments += ["--drain-time-s", str(math.ceil(self._settings.drain_time_s))]
        if self._settings.concurrency is not None:
            arguments += ["--concurrency", str(self._settings.concurrency)]
        return tuple(arguments)

    async def _leave(self, stop: StopReason) -> None:
        """Send clients elsewhere, tell the control plane, and let open tunnels end."""
        if self._heart is None or self._supervisor is None:
            return
        log.info("agent.leaving")
        admin = self._supervisor.admin
        if admin is not None and self._settings.role is Role.EXIT:
            with suppress(AdminUnreachable):
                await admin.fail_health_check()
        with suppress(TimeoutError, Deregistered):
            async with asyncio.timeout(LAST_WORD_S):
                await self._heart.beat(leaving=True)
        if admin is not None:
            with suppress(AdminUnreachable):
                await self._drain(admin, stop)

    async def _drain(self, admin: Admin, stop: StopReason) -> None:
        """Until nothing is open, or the time is over, or somebody is in a hurry. Raises AdminSilent."""
        if self._settings.role is Role.GATEWAY:
            await admin.drain_listeners()
        loop = asyncio.get_running_loop()
        limit_s = DRAIN_S if self._settings.drain_time_s is None else self._settings.drain_time_s
        deadline_s = loop.time() + limit_s
        while (open_ := await admin.open_requests()) > 0:
            if loop.time() >= deadline_s or await wait(stop.urged, _POLL_S):
                log.warning("agent.tunnels_cut", open=open_)
                return


def _only_reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that Exitplane knows, if a group holds nothing else; the group itself otherwise."""
    reasons = list(_leaves(group))
    known = all(isinstance(reason, ExitplaneError) for reason in reasons)
    return reasons[0] if known else group


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for part in error.exceptions:
        yield from _leaves(part)
