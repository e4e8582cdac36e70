"""The renewal of the proxy's certificate, while it runs and long before the certificate expires.

See docs/decisions/0043-leaves-live-for-hours.md.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog
from cryptography import x509

from agent.config.identity import Enrolment
from agent.config.state_dir import StateDir, StateDirUnusable
from agent.config.status import wait
from agent.control.api_client import ApiUnavailable, RefusedByApi
from agent.control.enrolment import BadEnrolment, build_csr, store_renewal
from agent.control.signed_client import SignedClient
from agent.net.backoff import Backoff

log = structlog.get_logger()

RETRY_BASE_S: Final = 1.0
RETRY_LIMIT_S: Final = 300.0
_CHECK_S: Final = 60.0
"""A host may sleep, or its clock be set: the time that is left is computed anew at least this often."""
_SPREAD_INTERVALS: Final = 3
"""The number of intervals of heartbeats over which agents renew when the authority changed."""
_EARLIEST, _LATEST = 0.53, 0.6
"""The parts of a certificate's validity between which it is renewed, so that many agents do not ask at once. The validity begins
before the issue: with the default, 14 to 19 of 48 hours are over, and a host whose clock is a day ahead still accepts it."""


class Renewal:
    """Renews the certificate of a client's enrolment, and passes each new enrolment to `use`."""

    def __init__(self, client: SignedClient, folder: StateDir, use: Callable[[Enrolment], None]) -> None:
        self._client = client
        self._folder = folder
        self._use = use
        self._backoff = Backoff(RETRY_BASE_S, RETRY_LIMIT_S)
        self._failing = False
        self._requested = asyncio.Event()
        self._part = _draw_part()
        self._spread: asyncio.TimerHandle | None = None
        """The time at which the renewal for a new version of the authority begins; None: there is no new version."""

    @property
    def is_expired(self) -> bool:
        return self._certificate.not_valid_after_utc <= self._client.now()

    @property
    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._client.enrolment.certificate_pem.encode())

    def note_authority(self, version: object, interval_s: float) -> None:
        """Renew within some intervals of heartbeats if the authority has another version than the certificate's.

        The chain that the proxy presents, or the roots that it trusts, are changing then.
        """
        if not isinstance(version, str) or not version or version == self._client.enrolment.authority_version:
            return
        if self._spread is None:
            wait_s = random.uniform(0, _SPREAD_INTERVALS * interval_s)  # noqa: S311 - no secret
            self._spread = asyncio.get_running_loop().call_later(wait_s, self._requested.set)

    async def run(self) -> None:
        """Renew the certificate whenever about a third of its lifetime is over, until cancelled. Raises Deregistered."""
        while True:
            await self._wait_until_due()
            if not await self.attempt():
                await asyncio.sleep(self._backoff.next_s())

    async def _wait_until_due(self) -> None:
        due_at = find_due_time(self._certificate, self._part)
        while (left := due_at - self._client.now()) > timedelta(0):
            if await wait(self._requested, min(left.total_seconds(), _CHECK_S)):
                return

    async def attempt(self) -> bool:
        """Renew the certificate, and return whether that worked. Raises Deregistered."""
        former = self._client.enrolment
        try:
            reply = await self._client.post("certificate", json.dumps({"csr": build_csr(former.key_pem)}).encode())
            self._use(store_renewal(self._folder, former, reply))
        except (ApiUnavailable, RefusedByApi, BadEnrolment, StateDirUnusable) as error:
            if not self._failing:
                expires = self._certificate.not_valid_after_utc
                log.warning("certificate.not_renewed", reason=error.message, expires=f"{expires:%Y-%m-%d %H:%M} UTC")
            self._failing = True
            return False
        self._failing = False
        self._backoff.reset()
        self._requested.clear()
        self._spread = None
        self._part = _draw_part()
        log.info("certificate.renewed", expires=f"{self._certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
        return True


def find_due_time(certificate: x509.Certificate, part: float) -> datetime:
    """Return when a part of a certificate's lifetime is over."""
    start = certificate.not_valid_before_utc
    return start + (certificate.not_valid_after_utc - start) * part


def _draw_part() -> float:
    return random.uniform(_EARLIEST, _LATEST)  # noqa: S311 - no secret
