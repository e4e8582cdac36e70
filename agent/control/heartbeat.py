"""Heartbeats: periodic status reports of an agent, sent at once when the status changes."""

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
from agent.config.identity import Enrolment
from agent.config.status import HealthState, StatusBoard, wait
from agent.control.api_client import ApiClient, ApiUnavailable, RefusedByApi
from agent.control.enrolment import PATHS
from agent.control.orders import Orders
from agent.egress.wire_format import serialize_observation
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
_STALE: Final = "stale_signature"
_CLOCK_TOLERANCE: Final = timedelta(seconds=30)
"""A smaller difference of clocks counts as none."""
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
_STEP: Final = timedelta(microseconds=1)
_REPEATS_MAX: Final = 2
"""Signatures after a refused one: one for the control plane's clock, one for the newest time that it knows."""


class Deregistered(ExitplaneError):
    """The proxy was removed from the control plane and must carry no more traffic."""

    code = "deregistered"


class Replaced(Deregistered):
    """Another registration took over the proxy's name, which ended its certificate."""

    code = "replaced"


class HeartbeatSender:
    """Sends the board's status for one proxy, signed with its certificate's key (docs/decisions/0003-heartbeats-are-signed.md)."""

    def __init__(
        self,
        api: ApiClient,
        enrolment: Enrolment,
        board: StatusBoard,
        *,
        orders: Orders | None = None,
        load: LoadReader | None = None,
        cutter: ConnectionCutter | None = None,
    ) -> None:
        self._api = ApiClient(api.session, api.url, TIMEOUT, api.tls)
        self._enrolment = enrolment
        self._board = board
        self._orders = orders
        self._load = load
        self._cutter = cutter
        self._path = f"{PATHS[enrolment.role]}/{enrolment.id}/heartbeat"
        self._thumbprint = request_signature.thumbprint_of(enrolment.certificate_pem)
        self._interval_s = enrolment.interval_s
        self._delivered = True
        self._clock_offset = timedelta(0)
        """The control plane's clock minus this host's."""
        self._signed_at = _LONG_AGO
        """The time of the last signature, or a later one that the control plane knows. The next one is later."""

    async def run(self) -> None:
        """Send heartbeats until cancelled. Raises Deregistered; other failures are logged."""
        await self._wait_for_envoy()
        while True:
            changed = self._board.changed
            await self.send()
            await wait(changed, self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret

    async def send(self, *, stopping: bool = False) -> None:
        """Send one heartbeat. Raises Deregistered."""
        status = self._build_status(stopping=stopping) | await self._build_activity()
        try:
            reply = await self._post(json.dumps(status).encode())
        except RefusedByApi as error:
            if _is_deregistration(error):
                raise self._explain_dismissal(error) from error
            self._note_failure(error)
        except ApiUnavailable as error:
            self._note_failure(error)
        else:
            self._note_success(reply)
            await self._apply_reply(status, reply)

    def _explain_dismissal(self, error: RefusedByApi) -> Deregistered:
        role, name = self._enrolment.role, self._enrolment.name
        if error.problem.get("code") == Replaced.code:
            log.error("agent.replaced", role=role, name=name, reason=error.message)
            return Replaced(
                f"the {role} {name!r} was replaced by another registration ({error.message})",
                hint=f"if this is the right one, remove its state folder, and enrol it with a token of "
                f"`exitplane token create --role {role} --takes-over {name}`",
            )
        return Deregistered(
            f"the control plane removed this {role} ({error.message})", hint="remove the state folder to enrol anew"
        )

    async def _post(self, body: bytes) -> Mapping[str, Any]:
        """Post a signed heartbeat and return the reply. Raises RefusedByApi and ApiUnavailable.

        If the signature's time is refused, it adopts the time in the refusal and signs again, so that a wrong clock loses no exit.
        """
        for _ in range(_REPEATS_MAX):
            try:
                return await self._post_once(body)
            except RefusedByApi as error:
                if not (self._adopt_newest(error) or self._adopt_clock(error)):
                    raise
        return await self._post_once(body)

    async def _post_once(self, body: bytes) -> Mapping[str, Any]:
        self._signed_at = max(self._now(), self._signed_at + _STEP)
        token = request_signature.sign(self._enrolment.key_pem, self._thumbprint, self._path, body, self._signed_at)
        return await self._api.post(self._path, body, authorization=f"Bearer {token}")

    def _now(self) -> datetime:
        """Return the estimated time of the control plane."""
        return datetime.now(UTC) + self._clock_offset

    def _adopt_newest(self, error: RefusedByApi) -> bool:
        """Adopt the newest time that the control plane knows, from a refusal that states one; return whether it does.

        The control plane accepts no time beyond its tolerance, so a later one is not its own.
        """
        newest = _read_newest(error.problem)
        if error.status != _UNAUTHORIZED or newest is None:
            return False
        if newest > self._now() + 2 * request_signature.CLOCK_TOLERANCE:
            return False
        self._signed_at = newest
        return True

    def _adopt_clock(self, error: RefusedByApi) -> bool:
        """Adopt the clock of a refusal; return whether it differs from that of the signature, so that a retry may succeed."""
        if error.status != _UNAUTHORIZED or error.answered_at is None:
            return False
        if abs(error.answered_at - self._signed_at) < _CLOCK_TOLERANCE:
            return False
        self._signed_at = _LONG_AGO
        self._clock_offset = error.answered_at - datetime.now(UTC)
        if abs(self._clock_offset) < _CLOCK_TOLERANCE:
            self._clock_offset = timedelta(0)
        ahead_s = round(self._clock_offset.total_seconds())
        log.warning("clock.differs", control_plane_ahead_s=ahead_s, hint="set the clocks of both (NTP)")
        return True

    async def _wait_for_envoy(self) -> None:
        """Delay the first heartbeat until Envoy is up, or until the status is unchanged for one interval."""
        while self._board.report.envoy is HealthState.DOWN:
            changed = self._board.changed
            if not await wait(changed, self._interval_s):
                return

    def _build_status(self, *, stopping: bool) -> dict[str, Any]:
        report = self._board.report
        status: dict[str, Any] = {"envoy": report.envoy, "stopping": stopping, "version": exitplane_version()}
        if self._enrolment.role is Role.EXIT:
            tunnel = HealthState.DOWN if report.paused else report.tunnel
            status |= {"tunnel": tunnel, "reason": report.paused or report.reason}
            if report.observation is not None:
                status["observation"] = serialize_observation(report.observation, self._now())
        return status

    async def _build_activity(self) -> dict[str, Any]:
        """Return load and finished orders of an exit, or the departed exits to which a gateway has connections."""
        activity: dict[str, Any] = {}
        if self._load is not None:
            load = await self._load.read()
            activity |= {"open_requests": load.open_requests, "carried_bytes": load.carried_bytes}
        if self._orders is not None and (outcomes := self._orders.outcomes):
            activity["order_results"] = outcomes
        if self._cutter is not None and (departed := await self._cutter.list_departed()):
            activity["removed_endpoints"] = [each._asdict() for each in departed]
        return activity

    async def _apply_reply(self, status: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        if self._orders is not None:
            self._orders.forget([each["id"] for each in status.get("order_results", ())])
            self._orders.start_new(reply.get("orders"))
        if self._cutter is not None:
            await self._cutter.cut(_parse_exits(reply.get("endpoints_to_cut")))

    def _note_success(self, reply: Mapping[str, Any]) -> None:
        interval_s = reply.get("interval_s")
        if isinstance(interval_s, int | float) and 0 < interval_s <= _INTERVAL_MAX_S:
            self._interval_s = float(interval_s)
        if not self._delivered:
            self._delivered = True
            log.info("heartbeat.recovered", state=reply.get("state"))

    def _note_failure(self, error: ExitplaneError) -> None:
        """Log the first of several failures in a row."""
        if self._delivered:
            log.warning("heartbeat.failed", reason=str(error))
        self._delivered = False


def _parse_exits(value: object) -> list[ExitAddress]:
    """Parse a list of exits' addresses, and skip invalid entries."""
    exits = []
    for each in value if isinstance(value, list) else ():
        with suppress(KeyError, TypeError, ValueError):
            exits.append(ExitAddress(str(each["address"]), int(each["port"])))
    return exits


def _read_newest(problem: Mapping[str, Any]) -> datetime | None:
    """Read the newest known time from a problem; None if it states none."""
    if problem.get("code") != _STALE:
        return None
    try:
        return datetime.fromisoformat(problem["errors"][0]["value"]).astimezone(UTC)
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def _is_deregistration(error: RefusedByApi) -> bool:
    """Return whether the API states that this proxy was removed (410 with a problem).

    A 404 is no such statement. A database restored from an older backup does not know newer proxies, and must not stop them.
    """
    return error.status == _GONE and bool(error.problem)
