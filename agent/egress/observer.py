"""Looks through an exit's tunnel from time to time, and keeps what was seen on the board."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

import structlog

from agent.config.settings import ExitSettings
from agent.config.status import HealthState, Observation, StatusBoard, wait
from agent.egress.bypass import judge_ipv6, look_for_bypass, look_over_ipv6, look_over_ipv6_by
from agent.egress.consensus import Consensus, combine, compose
from agent.egress.dns_leak import Asked, Route, ask_zone, judge, located
from agent.egress.finding import LeakFinding
from agent.egress.geo_file import GeoFile
from agent.egress.geolocation import Geolocator
from agent.egress.http_sources import Answers, ask_all, through_tunnel
from agent.egress.latency import measure_rtt_ms, steady
from agent.egress.resolvers import resolvers_of
from agent.egress.types import Location, SeenAddress
from agent.net.active_interface import ActiveInterface
from agent.net.route_query import interface_towards
from model.endpoint import Endpoint

log = structlog.get_logger()

AGAIN_S: Final = 5.0
"""After a look that had any trouble."""
NOT_YET: Final = Observation(trouble="its address is not known yet")


@dataclass(frozen=True, slots=True)
class EgressSnapshot:
    """What was found at one time, of the tunnel on `interface`. `resolvers` are those that were asked."""

    outcome: Consensus
    names: LeakFinding
    bypass: LeakFinding
    ipv6: LeakFinding
    resolvers: tuple[Endpoint, ...] = ()
    rtt_ms: float | None = None
    interface: str | None = None

    @property
    def observation(self) -> Observation:
        return compose(self.outcome, self.names, self.bypass, self.ipv6)

    def holding(self, before: EgressSnapshot | None) -> EgressSnapshot:
        """The same, where a service failed, with what it said before through the same tunnel.

        Not what was seen of the routes, which no service tells; nor of another address, or of other resolvers than are asked by
        now.
        """
        if before is None:
            return self
        outcome, names, ipv6 = self.outcome, self.names, self.ipv6
        if outcome.trouble and not before.outcome.trouble and outcome.addresses <= before.outcome.addresses:
            outcome = before.outcome
        if names.trouble and not before.names.trouble and self.resolvers == before.resolvers:
            names = before.names
        if ipv6.trouble and not before.ipv6.trouble and ipv6.seen == before.ipv6.seen:
            ipv6 = before.ipv6
        return replace(self, outcome=outcome, names=names, ipv6=ipv6)


class Observer:
    """Keeps the board's observation, as long as the tunnel is up. From when there is one, nothing is known yet.

    Raises BadSetting for a Geo-IP file that is of no use.
    """

    def __init__(
        self,
        exit_: ExitSettings,
        board: StatusBoard,
        *,
        again_s: float = AGAIN_S,
        resolvers: Callable[[ExitSettings], Sequence[Endpoint]] = resolvers_of,
        route: Route = interface_towards,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        active: ActiveInterface | None = None,
    ) -> None:
        self._exit = exit_
        self._active = active or ActiveInterface(exit_.tunnel_interface, exit_.resolvers)
        self._board = board
        self._again_s = again_s
        self._resolvers = resolvers
        self._route = route
        self._clock = clock
        geo_file = None if exit_.geoip is None else GeoFile(exit_.geoip)
        self._locator = Geolocator(geo_file, exit_.locate, through_tunnel(exit_))
        self._held: EgressSnapshot | None = None
        """Since the tunnel came up."""
        self._ahead: EgressSnapshot | None = None
        """Of the tunnel that is to be taken next."""
        self._addresses = Observation()
        """The last address that was seen, through whichever tunnel, and the one before."""
        board.update(observation=NOT_YET)

    async def run(self) -> None:
        """Look when the tunnel comes up and from then on from time to time, until cancelled."""
        try:
            while True:
                await self._watch()
        finally:
            self._locator.close()

    async def _watch(self) -> None:
        """Wait for a tunnel that is up, look once, and rest."""
        changed = self._board.changed
        if self._board.report.tunnel is HealthState.DOWN:
            # what was seen through the tunnel before says nothing of the one that comes
            self._held = self._ahead = None
            self._put(NOT_YET)
            await changed.wait()
            return
        changes = self._board.report.network_changes
        look = await self.look()
        if self._board.report.tunnel is HealthState.UP:
            self._tell(look)
        await self._rest(self._again_s if look.observation.trouble else self._exit.observe_every_s, changes)

    async def look(self) -> EgressSnapshot:
        """Look once, at everything at the same time."""
        async with self._active.lock:  # a look at one tunnel and the routes to another would be a leak
            exit_ = self._active.of(self._exit)
            self._locator.way = through_tunnel(exit_)
            resolvers = tuple(self._resolvers(exit_)) if exit_.dns_zone else ()
            asked = (
                ask_zone(exit_.dns_zone or "", resolvers),
                look_for_bypass(exit_, self._route),
                look_over_ipv6(exit_, self._route),
            )
            return await self._compose(exit_, resolvers, self._route, *asked)

    async def look_ahead(self, exit_: ExitSettings) -> Observation:
        """Look through the tunnel that `exit_` would have, which is up and carries no clients yet."""
        resolvers = tuple(resolvers_of(exit_)) if exit_.dns_zone else ()
        asked = (
            ask_zone(exit_.dns_zone or "", resolvers, exit_.tunnel_interface),
            _nothing(),
            look_over_ipv6_by(exit_),
        )
        self._ahead = await self._compose(exit_, resolvers, lambda *_: exit_.tunnel_interface, *asked)
        return self._ahead.observation

    async def _compose(
        self,
        exit_: ExitSettings,
        resolvers: tuple[Endpoint, ...],
        route: Route,
        zone: Awaitable[Asked],
        beside: Awaitable[LeakFinding],
        by_ipv6: Awaitable[tuple[Answers, str | None]],
    ) -> EgressSnapshot:
        answers, asked, bypass, (over_ipv6, way_6), rtt_ms = await asyncio.gather(
            ask_all(through_tunnel(exit_), exit_.sources), zone, beside, by_ipv6, self._measure_rtt_ms(exit_)
        )
        outcome = combine(answers, exit_.host_addresses, await self._places_of(answers))
        names = judge(await located(asked, self._locator), exit_, outcome.sight, route) if resolvers else LeakFinding()
        ipv6 = await judge_ipv6(over_ipv6, way_6, exit_, outcome.sight, self._locator)
        return EgressSnapshot(outcome, names, bypass, ipv6, resolvers, rtt_ms, exit_.tunnel_interface)

    async def _places_of(self, answers: Answers) -> dict[str, Location]:
        """Where the addresses are that were seen: by the file, and where no source says, by the service too."""
        sights = [each for _, each in answers if isinstance(each, SeenAddress)]
        unknown = not any(each.place.country for each in sights)
        places = {}
        for address in dict.fromkeys(each.address for each in sights):
            place = await self._locator.find(address) if unknown else self._locator.in_file(address)
            if place is not None:
                places[address] = place
        return places

    async def _measure_rtt_ms(self, exit_: ExitSettings) -> float | None:
        if exit_.parent is not None:
            return None  # a connection to the parent is as near as the parent, whatever is behind it
        target = exit_.probe
        if target is None and exit_.sources:
            first = exit_.sources[0]
            target = Endpoint(str(first.host), first.port or 80)
        return None if target is None else await measure_rtt_ms(target, through_tunnel(exit_))

    def _tell(self, look: EgressSnapshot) -> None:
        known = (each for each in (self._held, self._ahead) if each is not None and each.interface == look.interface)
        held = look.holding(next(known, None))
        troubles = look.observation.trouble
        if troubles and not held.observation.trouble:
            log.warning(
                "observation.failed", reason=troubles
            )  # the tunnel has been up since: what was seen still holds
        self._held = held
        before = self._board.report.observation
        rtt_ms = steady(before.rtt_ms if before else None, look.rtt_ms)
        self._put(replace(held.observation, rtt_ms=rtt_ms))

    def _put(self, observation: Observation) -> None:
        """Put it up with what is remembered: the address before, and the speed that was measured last."""
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
        if observation != NOT_YET and replace(whole, rtt_ms=before.rtt_ms) != before:
            log.info("observation", **{name: str(value) for name, value in asdict(whole).items() if value})
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

    async def _rest(self, seconds: float, changes: int) -> None:
        """For so long, unless the tunnel goes down, or the network changes more than so often: then a leak may have begun."""
        deadline = asyncio.get_running_loop().time() + seconds
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            changed = self._board.changed
            if self._board.report.tunnel is HealthState.DOWN or self._board.report.network_changes != changes:
                return
            await wait(changed, left)


async def _nothing() -> LeakFinding:
    return LeakFinding()
