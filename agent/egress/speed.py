"""The speed test of an exit: a download and an upload through its tunnel, bounded in bytes and in time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import aiohttp
import structlog
from yarl import URL

from agent.config.settings import ExitSettings
from agent.config.status import HealthState, StatusBoard
from agent.egress.http_sources import EgressSession, build_tunnel_path
from agent.net.active_interface import ActiveInterface
from model.errors import ExitplaneError

log = structlog.get_logger()

BYTES_MAX: Final = 25_000_000
SECONDS_MAX: Final = 5.0
"""The limit for each direction."""
BYTES_MIN: Final = 65_536
"""The minimum for a result, because the time of fewer bytes is mostly latency."""
SPEED_FIELDS: Final = frozenset({"download_mbps", "upload_mbps", "speed_measured_at"})
"""The fields of an observation that a speed test sets."""
_CHUNK: Final = bytes(65_536)
_GRACE_S: Final = 5.0
"""Extra time for connecting, and for the answer to an upload."""
_JITTER: Final = 0.1


class SpeedUnknown(ExitplaneError):
    """A speed test without a result."""

    code = "speed_unknown"


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """The speeds in Mbit/s, to three digits, and the time of the test."""

    download_mbps: float
    upload_mbps: float
    measured_at: datetime


class SpeedTest:
    """Runs on demand and, with `speed_every_s`, on a schedule; never twice at the same time.

    The result is added to the board's observation.
    """

    def __init__(
        self,
        exit_: ExitSettings,
        board: StatusBoard,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        bytes_max: int = BYTES_MAX,
        seconds_max: float = SECONDS_MAX,
        active: ActiveInterface | None = None,
    ) -> None:
        self._exit = exit_
        self._active = active or ActiveInterface(exit_.tunnel_interface, exit_.resolvers)
        self._board = board
        self._clock = clock
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._test: asyncio.Task[SpeedResult] | None = None

    async def measure(self) -> SpeedResult:
        """Measure now, or wait for the result of the test that is running. Raises SpeedUnknown."""
        if self._test is None or self._test.done():
            self._test = asyncio.create_task(self._measure(), name="speed")
        return await asyncio.shield(self._test)

    async def run(self) -> None:
        """Measure on the schedule, while the tunnel is up, until cancelled."""
        every_s = self._exit.speed_every_s
        if every_s is None:
            return
        try:
            while True:
                # the jitter spreads the exits; no test runs right after the start
                await asyncio.sleep(every_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret
                await self._wait_until_up()
                try:
                    await self.measure()
                except SpeedUnknown as error:
                    log.warning("speed.unknown", reason=str(error))
        finally:
            if self._test is not None:
                self._test.cancel()

    async def _wait_until_up(self) -> None:
        changed = self._board.changed
        while self._board.report.tunnel is HealthState.DOWN:
            await changed.wait()
            changed = self._board.changed

    async def _measure(self) -> SpeedResult:
        download, upload = self._exit.speed_url, self._exit.speed_upload_url or self._exit.speed_url
        if download is None or upload is None:
            raise SpeedUnknown("no target for speed tests is set", hint="start the agent with --speed-url")
        if self._board.report.tunnel is not HealthState.UP:
            raise SpeedUnknown("the tunnel is down", hint="measure again when it is up")
        async with build_tunnel_path(self._active.of(self._exit)).open_session(self._seconds_max + _GRACE_S) as session:
            down_mbps = await _translate_errors(download, self._download(session, download))
            up_mbps = await _translate_errors(upload, self._upload(session, upload))
        speed = SpeedResult(down_mbps, up_mbps, self._clock())
        log.info("speed.measured", download_mbps=down_mbps, upload_mbps=up_mbps)
        self._publish(speed)
        return speed

    def _publish(self, speed: SpeedResult) -> None:
        observation = self._board.report.observation
        if observation is not None:
            updated = replace(
                observation,
                download_mbps=speed.download_mbps,
                upload_mbps=speed.upload_mbps,
                speed_measured_at=speed.measured_at,
            )
            self._board.update(observation=updated)

    async def _download(self, session: EgressSession, url: URL) -> float:
        loop = asyncio.get_running_loop()
        # a compressed body of zeros would look fast
        async with session.get(url, {"Accept-Encoding": "identity"}) as response:
            _check_status(response)
            begun_s, got_bytes = loop.time(), 0
            while got_bytes < self._bytes_max and loop.time() < begun_s + self._seconds_max:
                try:
                    async with asyncio.timeout_at(begun_s + self._seconds_max):
                        chunk = await response.content.readany()
                except TimeoutError:
                    break
                if not chunk:
                    break
                got_bytes += len(chunk)
            return _compute_mbps(got_bytes, loop.time() - begun_s)

    async def _upload(self, session: EgressSession, url: URL) -> float:
        loop = asyncio.get_running_loop()
        begun_s, sent_bytes = loop.time(), 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent_bytes
            while sent_bytes < self._bytes_max and loop.time() < begun_s + self._seconds_max:
                yield _CHUNK
                sent_bytes += len(_CHUNK)

        async with session.post(url, body()) as response:
            _check_status(response)
            # the time ends with the answer, because the last bytes arrive just before it
            return _compute_mbps(sent_bytes, loop.time() - begun_s)


async def _translate_errors(url: URL, measurement: Awaitable[float]) -> float:
    """Await a measurement against `url`. Raises SpeedUnknown for any network error."""
    try:
        return await measurement
    except TimeoutError as error:
        raise SpeedUnknown(f"{url.host} does not answer in time", hint="name another --speed-url") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise SpeedUnknown(
            f"{url.host} cannot be reached, or closes the connection too early", hint="name another --speed-url"
        ) from error


def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status // 100 != 2:
        raise SpeedUnknown(f"{response.url.host} answers {response.status}", hint="name another --speed-url")


def _compute_mbps(transferred_bytes: int, seconds: float) -> float:
    if transferred_bytes < BYTES_MIN:
        raise SpeedUnknown(
            f"only {transferred_bytes} bytes were transferred", hint=f"name a --speed-url of {BYTES_MIN} bytes or more"
        )
    return float(f"{transferred_bytes * 8 / 1e6 / max(seconds, 1e-6):.3g}")
