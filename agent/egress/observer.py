"""The periodic observation of an exit's traffic through its tunnel, published on the status board."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

import structlog

from agent.config.settings import ExitSettings
from agent.config.status import HealthState, Observation, StatusBoard, wait
from agent.egress.bypass import check_bypass, evaluate_ipv6, query_over_ipv6, query_over_ipv6_through
from agent.egress.consensus import Consensus, combine, compose_observation
from agent.egress.dns_leak import ResolverAnswers, RouteLookup, evaluate_resolvers, locate_resolvers, query_zone
from agent.egress.geo_file import GeoFile
from agent.egress.geolocation import Geolocator
from agent.egress.http_sources import Answers, build_tunnel_path, query_sources
from agent.egress.latency import apply_hysteresis, measure_rtt_ms
from agent.egress.leak_check import LeakFinding
from agent.egress.resolvers import read_resolvers
from agent.egress.types import Location, SeenAddress
from agent.net.active_interface import ActiveInterface
from agent.net.route_query import interface_towards
from model.endpoint import Endpoint

log = structlog.get_logger()

RETRY_S: Final = 5.0
"""The pause after an observation with error."""
NOT_OBSERVED: Final = Observation(error="its address is not known yet")


@dataclass(frozen=True, slots=True)
class EgressSnapshot:
    """The results of all checks at one time, through the tunnel on `interface`. `resolvers` are those that were queried."""

    consensus: Consensus
    dns: LeakFinding
    bypass: LeakFinding
    ipv6: LeakFinding
    resolvers: tuple[Endpoint, ...] = ()
    rtt_ms: float | None = None
    interface: str | None = None

    @property
    def observation(self) -> Observation:
        return compose_observation(self.consensus, self.dns, self.bypass, self.ipv6)

    def keep_known(self, before: EgressSnapshot | None) -> EgressSnapshot:
        """Replace the results of services that failed by their previous results through the same tunnel.

        A previous result is not kept for another address or for other resolvers. The check for bypasses is never replaced, because
        it asks the kernel and no service.
        """
        if before is None:
            return self
        consensus, dns, ipv6 = self.consensus, self.dns, self.ipv6
        if consensus.error and not before.consensus.error and consensus.addresses <= before.consensus.addresses:
            consensus = before.consensus
        if dns.error and not before.dns.error and self.resolvers == before.resolvers:
            dns = before.dns
        if ipv6.error and not before.ipv6.error and ipv6.observed == before.ipv6.observed:
            ipv6 = before.ipv6
        return replace(self, consensus=consensus, dns=dns, ipv6=ipv6)


class Observer:
    """Updates the board's observation while the tunnel is up. The constructor resets it to `NOT_OBSERVED`.

    Raises BadSetting for an unusable Geo-IP file.
    """

    def __init__(
        self,
        exit_: ExitSettings,
        board: StatusBoard,
        *,
        retry_s: float = RETRY_S,
        resolvers: Callable[[ExitSettings], Sequence[Endpoint]] = read_resolvers,
        route: RouteLookup = interface_towards,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        active: ActiveInterface | None = None,
    ) -> None:
        self._exit = exit_
        self._active = active or ActiveInterface(exit_.tunnel_interface, exit_.resolvers)
        self._board = board
        self._retry_s = retry_s
        self._resolvers = resolvers
        self._route = route
        self._clock = clock
        geo_file = None if exit_.geoip is None else GeoFile(exit_.geoip)
        self._locator = Geolocator(geo_file, exit_.locate, build_tunnel_path(exit_))
        self._current: EgressSnapshot | None = None
        """The results since the tunnel came up."""
        self._candidate: EgressSnapshot | None = None
        """The results of the tunnel that is tried next."""
        self._addresses = Observation()
        """The last egress address through any tunnel, and the one before it."""
        board.update(observation=NOT_OBSERVED)

    async def run(self) -> None:
        """Observe when the tunnel comes up, and periodically from then on, until cancelled."""
        try:
            while True:
                await self._run_once()
        finally:
            self._locator.close()

    async def _run_once(self) -> None:
        """Wait while the tunnel is down; else observe once and pause."""
        changed = self._board.changed
        if self._board.report.tunnel is HealthState.DOWN:
            # results of the previous tunnel do not hold for the next one
            self._current = self._candidate = None
            self._publish(NOT_OBSERVED)
            await changed.wait()
            return
        changes = self._board.report.network_changes
        snapshot = await self.observe()
        if self._board.report.tunnel is HealthState.UP:
            self._accept(snapshot)
        pause_s = self._retry_s if snapshot.observation.error else self._exit.observe_every_s
        await self._pause(pause_s, changes)

    async def observe(self) -> EgressSnapshot:
        """Run all checks once, concurrently."""
        # a change of interface between two checks would look like a leak
        async with self._active.lock:
            exit_ = self._active.of(self._exit)
            self._locator.path = build_tunnel_path(exit_)
            resolvers = tuple(self._resolvers(exit_)) if exit_.dns_zone else ()
            return await self._run_checks(
                exit_,
                resolvers,
                self._route,
                query_zone(exit_.dns_zone or "", resolvers),
                check_bypass(exit_, self._route),
                query_over_ipv6(exit_, self._route),
            )

    async def observe_candidate(self, exit_: ExitSettings) -> Observation:
        """Run all checks through the tunnel of `exit_`, which is up and carries no clients yet."""
        resolvers = tuple(read_resolvers(exit_)) if exit_.dns_zone else ()
        self._candidate = await self._run_checks(
            exit_,
            resolvers,
            lambda *_: exit_.tunnel_interface,
            query_zone(exit_.dns_zone or "", resolvers, exit_.tunnel_interface),
            _skip_check(),
            query_over_ipv6_through(exit_),
        )
        return self._candidate.observation

    async def _run_checks(
        self,
        exit_: ExitSettings,
        resolvers: tuple[Endpoint, ...],
        route: RouteLookup,
        zone_query: Awaitable[ResolverAnswers],
        bypass_check: Awaitable[LeakFinding],
        ipv6_query: Awaitable[tuple[Answers, str | None]],
    ) -> EgressSnapshot:
        answers, zone_answers, bypass, (ipv6_answers, ipv6_interface), rtt_ms = await asyncio.gather(
            query_sources(build_tunnel_path(exit_), exit_.sources),
            zone_query,
            bypass_check,
            ipv6_query,
            self._measure_rtt_ms(exit_),
        )
        consensus = combine(answers, exit_.host_addresses, await self._locate(answers))
        dns = LeakFinding()
        if resolvers:
            located = await locate_resolvers(zone_answers, self._locator)
            dns = evaluate_resolvers(located, exit_, consensus.seen, route)
        ipv6 = await evaluate_ipv6(ipv6_answers, ipv6_interface, exit_, consensus.seen, self._locator)
        return EgressSnapshot(consensus, dns, bypass, ipv6, resolvers, rtt_ms, exit_.tunnel_interface)

    async def _locate(self, answers: Answers) -> dict[str, Location]:
        """Locate the addresses by the file, and also by the service if no source states a country."""
        seen = [each for _, each in answers if isinstance(each, SeenAddress)]
        unknown = not any(each.location.country for each in seen)
        locations = {}
        for address in dict.fromkeys(each.address for each in seen):
            location = await self._locator.find(address) if unknown else self._locator.find_in_file(address)
            if location is not None:
                locations[address] = location
        return locations

    async def _measure_rtt_ms(self, exit_: ExitSettings) -> float | None:
        if exit_.parent is not None:
            return None  # a connection would only measure the way to the parent
        target = exit_.probe
        if target is None and exit_.sources:
            first = exit_.sources[0]
            target = Endpoint(str(first.host), first.port or 80)
        return None if target is None else await measure_rtt_ms(target, build_tunnel_path(exit_))

    def _accept(self, snapshot: EgressSnapshot) -> None:
        known = (
            each
            for each in (self._current, self._candidate)
            if each is not None and each.interface == snapshot.interface
        )
        current = snapshot.keep_known(next(known, None))
        error = snapshot.observation.error
        if error and not current.observation.error:
            # the tunnel has stayed up, so the previous results still hold
            log.warning("observation.failed", reason=error)
        self._current = current
        before = self._board.report.observation
        rtt_ms = apply_hysteresis(before.rtt_ms if before else None, snapshot.rtt_ms)
        self._publish(replace(current.observation, rtt_ms=rtt_ms))

    def _publish(self, observation: Observation) -> None:
        """Put the observation on the board, together with the previous address and the last measured speed."""
        self._note_address(observation.address)
        before = self._board.report.observation or Observation()
        whole = replace(
            observation,
            previous_address=self._addresses.previous_address,
            changed_at=self._addresses.changed_at,
            download_mbps=before.download_mbps,
            upload_mbps=before.upload_mbps,
            speed_measured_at=before.speed_measured_at,
        )
        if observation != NOT_OBSERVED and replace(whole, rtt_ms=before.rtt_ms) != before:
            log.info("observation.changed", **{name: str(value) for name, value in asdict(whole).items() if value})
        self._board.update(observation=whole)

    def _note_address(self, address: str | None) -> None:
        known = self._addresses.address
        if address is None or address == known:
            return
        if known is None:
            self._addresses = Observation(address=address)
            return
        self._addresses = Observation(address=address, previous_address=known, changed_at=self._clock())
        log.warning("observation.address_changed", address=address, previous=known)

    async def _pause(self, seconds: float, changes: int) -> None:
        """Sleep, but return early when the tunnel goes down or the network changes, because a leak may have begun."""
        deadline_s = asyncio.get_running_loop().time() + seconds
        while (left_s := deadline_s - asyncio.get_running_loop().time()) > 0:
            changed = self._board.changed
            if self._board.report.tunnel is HealthState.DOWN or self._board.report.network_changes != changes:
                return
            await wait(changed, left_s)


async def _skip_check() -> LeakFinding:
    return LeakFinding()
