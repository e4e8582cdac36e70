"""Heartbeats: what an agent says of itself, on time and at once when something changes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import structlog

from agent.ads.connection_cutter import ConnectionCutter, ExitAddress
from agent.config.status import HealthState, StatusBoard, wait
from agent.control.api_client import ApiClient, ApiUnavailable, RefusedByApi
from agent.control.enrolment import PATHS, Enrolment
from agent.control.orders import Orders
from agent.egress.wire_format import as_said
from agent.envoy.envoy_stats import LoadReader
from model import request_signature
from model.entities import Role
from model.errors import ExitplaneError
from model.version import exitplane_version

log = structlog.get_logger()

TIMEOUT: Final = aiohttp.ClientTimeout(total=5, connect=3)
_INTERVAL_MAX_S: Final = 300.0
_JITTER: Final = 0.1
_UNAUTHORIZED: Final = 401
_GONE: Final = 410
_ALIKE: Final = timedelta(seconds=30)
"""Clocks that differ by less are one."""


class Deregistered(ExitplaneError):
    """The control plane knows this proxy no more; it must not carry traffic any longer."""

    code = "deregistered"


class HeartbeatSender:
    """Sends the board's report for one proxy, signed with its certificate's key.

    See docs/decisions/0003-heartbeats-are-signed.md.
    """

    def __init__(
        self,
        plane: ApiClient,
        enrolment: Enrolment,
        board: StatusBoard,
        *,
        orders: Orders | None = None,
        load: LoadReader | None = None,
        cutter: ConnectionCutter | None = None,
    ) -> None:
        self._plane = ApiClient(plane.session, plane.url, TIMEOUT)
        self._enrolment = enrolment
        self._board = board
        self._orders = orders
        self._load = load
        self._cutter = cutter
        self._path = f"{PATHS[enrolment.role]}/{enrolment.id}/heartbeat"
        self._thumbprint = request_signature.thumbprint_of(enrolment.certificate_pem)
        self._interval_s = enrolment.interval_s
        self._heard = True
        self._ahead = timedelta(0)
        """Of the control plane's clock, compared with this host's."""

    async def run(self) -> None:
        """Send until cancelled. Raises Deregistered; every other failure is told and forgotten."""
        await self._gather()
        while True:
            changed = self._board.changed
            await self.beat()
            await wait(changed, self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret

    async def beat(self, *, leaving: bool = False) -> None:
        """Send one. Raises Deregistered."""
        said = self._say(leaving=leaving) | await self._say_more()
        try:
            reply = await self._send(json.dumps(said).encode())
        except RefusedByApi as error:
            if _means_deregistered(error):
                raise Deregistered(
                    f"the control plane knows this {self._enrolment.role} no more ({error.message})",
                    hint="remove the state folder to enrol anew",
                ) from error
            self._miss(error)
        except ApiUnavailable as error:
            self._miss(error)
        else:
            self._hear(reply)
            await self._heed(said, reply)

    async def _send(self, body: bytes) -> Mapping[str, Any]:
        """The reply, to a proof of the control plane's time. Raises Refused and PlaneUnavailable.

        Where clocks differ, or one jumped, one heartbeat is refused and the next is not: an exit is not lost for a wrong clock.
        """
        try:
            return await self._send_once(body)
        except RefusedByApi as error:
            if not self._learn_time(error):
                raise
        return await self._send_once(body)

    async def _send_once(self, body: bytes) -> Mapping[str, Any]:
        token = request_signature.sign(self._enrolment.key_pem, self._thumbprint, self._path, body, self._now())
        return await self._plane.post(self._path, body, authorization=f"Bearer {token}")

    def _now(self) -> datetime:
        """The control plane's time, as far as it is known."""
        return datetime.now(UTC) + self._ahead

    def _learn_time(self, error: RefusedByApi) -> bool:
        """Whether a refusal may have been for the time of the proof, so that another one is worth a try."""
        if error.status != _UNAUTHORIZED or error.at is None:
            return False
        if abs(error.at - self._now()) < _ALIKE:
            return False
        self._ahead = error.at - datetime.now(UTC)
        if abs(self._ahead) < _ALIKE:
            self._ahead = timedelta(0)
        ahead_s = round(self._ahead.total_seconds())
        log.warning("clock.differs", control_plane_ahead_s=ahead_s, hint="set the clocks of both (NTP)")
        return True

    async def _gather(self) -> None:
        """Let the first one tell of an Envoy that is up, if that takes no longer than an interval."""
        while self._board.report.envoy is HealthState.DOWN:
            changed = self._board.changed
            if not await wait(changed, self._interval_s):
                return

    def _say(self, *, leaving: bool) -> dict[str, Any]:
        report = self._board.report
        said: dict[str, Any] = {"envoy": report.envoy, "leaving": leaving, "version": exitplane_version()}
        if self._enrolment.role is Role.EXIT:
            tunnel = HealthState.DOWN if report.resting else report.tunnel
            said |= {"tunnel": tunnel, "reason": report.resting or report.reason}
            if report.observation is not None:
                said["observation"] = as_said(report.observation, self._now())
        return said

    async def _say_more(self) -> dict[str, Any]:
        """What is no state: what an exit carries and did, or which exits a gateway still has connections to."""
        more: dict[str, Any] = {}
        if self._load is not None:
            measured = await self._load.measure()
            more |= {"open_requests": measured.open_requests, "carried_bytes": measured.carried_bytes}
        if self._orders is not None and (settled := self._orders.settled):
            more["settled"] = settled
        if self._cutter is not None and (gone := await self._cutter.gone()):
            more["gone"] = [place._asdict() for place in gone]
        return more

    async def _heed(self, said: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        if self._orders is not None:
            self._orders.heard([each["id"] for each in said.get("settled", ())])
            self._orders.take(reply.get("orders"))
        if self._cutter is not None:
            await self._cutter.cut(_places(reply.get("cut")))

    def _hear(self, reply: Mapping[str, Any]) -> None:
        interval_s = reply.get("interval_s")
        if isinstance(interval_s, int | float) and 0 < interval_s <= _INTERVAL_MAX_S:
            self._interval_s = float(interval_s)
        if not self._heard:
            self._heard = True
            log.info("heartbeat.heard_again", state=reply.get("state"))

    def _miss(self, error: ExitplaneError) -> None:
        """Told when it begins, not each time: an outage of an hour is one event."""
        if self._heard:
            log.warning("heartbeat.not_heard", reason=str(error))
        self._heard = False


def _places(said: object) -> list[ExitAddress]:
    places = []
    for each in said if isinstance(said, list) else ():
        with suppress(KeyError, TypeError, ValueError):
            places.append(ExitAddress(str(each["address"]), int(each["port"])))
    return places


def _means_deregistered(error: RefusedByApi) -> bool:
    """Whether the API itself says that this proxy was removed.

    A 404 does not: a control plane that was restored from an older backup never heard of the proxy either, and a database
    that lost its memory must not stop a fleet that works.
    """
    return error.status == _GONE and bool(error.problem)
