"""Heartbeats: periodic status reports of an agent, sent at once when the status changes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from agent.ads.connection_cutter import ConnectionCutter, ExitAddress
from agent.config.status import HealthState, StatusBoard, wait
from agent.control.api_client import ApiUnavailable, RefusedByApi
from agent.control.orders import Orders
from agent.control.renewal import Renewal
from agent.control.signed_client import SignedClient
from agent.egress.wire_format import serialize_observation
from agent.envoy.envoy_stats import LoadReader
from model.endpoint import Endpoint
from model.entities import Role
from model.errors import ExitplaneError
from model.version import exitplane_version

log = structlog.get_logger()

_INTERVAL_MAX_S: Final = 300.0
_JITTER: Final = 0.1


class HeartbeatSender:
    """Sends the board's status for one proxy."""

    def __init__(
        self,
        client: SignedClient,
        board: StatusBoard,
        *,
        orders: Orders | None = None,
        load: LoadReader | None = None,
        cutter: ConnectionCutter | None = None,
        renewal: Renewal | None = None,
        metrics: Endpoint | None = None,
    ) -> None:
        self._client = client
        self._board = board
        self._orders = orders
        self._load = load
        self._cutter = cutter
        self._renewal = renewal
        self._metrics = metrics
        self._interval_s = client.enrolment.interval_s
        self._delivered = True

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
            reply = await self._client.post("heartbeat", json.dumps(status).encode())
        except (RefusedByApi, ApiUnavailable) as error:
            self._note_failure(error)
        else:
            self._note_success(reply)
            await self._apply_reply(status, reply)

    async def _wait_for_envoy(self) -> None:
        """Delay the first heartbeat until Envoy is up, or until the status is unchanged for one interval."""
        while self._board.report.envoy is HealthState.DOWN:
            changed = self._board.changed
            if not await wait(changed, self._interval_s):
                return

    def _build_status(self, *, stopping: bool) -> dict[str, Any]:
        report = self._board.report
        status: dict[str, Any] = {"envoy": report.envoy, "stopping": stopping, "version": exitplane_version()}
        if self._metrics is not None:
            status["metrics_address"] = str(self._metrics)
        if self._client.enrolment.role is Role.EXIT:
            tunnel = HealthState.DOWN if report.paused else report.tunnel
            status |= {"tunnel": tunnel, "reason": report.paused or report.reason}
            if report.observation is not None:
                status["observation"] = serialize_observation(report.observation, self._client.now())
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
        if self._renewal is not None:
            self._renewal.note_authority(reply.get("authority_version"), self._interval_s)
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
