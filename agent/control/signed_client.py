"""Requests to the API that are signed with the key of the proxy's certificate (docs/decisions/0003-heartbeats-are-signed.md)."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import structlog

from agent.config.identity import Enrolment
from agent.control.api_client import ApiClient, RefusedByApi
from agent.control.enrolment import PATHS
from model import request_signature
from model.errors import ExitplaneError

log = structlog.get_logger()

TIMEOUT: Final = aiohttp.ClientTimeout(total=5, connect=3)
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


class SignedClient:
    """Posts the requests of one proxy. Each signature is newer than the one before."""

    def __init__(self, api: ApiClient, enrolment: Enrolment) -> None:
        self._api = replace(api, timeout=TIMEOUT)
        self._folder = f"{PATHS[enrolment.role]}/{enrolment.id}"
        self._clock_offset = timedelta(0)
        """The control plane's clock minus this host's."""
        self._signed_at = _LONG_AGO
        """The time of the last signature, or a later one that the control plane knows. The next one is later."""
        self.use(enrolment)

    def use(self, enrolment: Enrolment, tls: ssl.SSLContext | None = None) -> None:
        """Sign by the certificate of this enrolment from now on, and trust `tls` unless it is None."""
        self.enrolment = enrolment
        self._thumbprint = request_signature.thumbprint_of(enrolment.certificate_pem)
        if tls is not None:
            self._api = replace(self._api, tls=tls)

    def now(self) -> datetime:
        """Return the estimated time of the control plane."""
        return datetime.now(UTC) + self._clock_offset

    async def post(self, name: str, body: bytes) -> Mapping[str, Any]:
        """Post a signed body to a path below the proxy's, and return the reply.

        Raises Deregistered, RefusedByApi and ApiUnavailable. If the signature's time is refused, it adopts the time in the
        refusal and signs again, so that a wrong clock loses no exit.
        """
        path = f"{self._folder}/{name}"
        try:
            for _ in range(_REPEATS_MAX):
                try:
                    return await self._post_once(path, body)
                except RefusedByApi as error:
                    if not (self._adopt_newest(error) or self._adopt_clock(error)):
                        raise
            return await self._post_once(path, body)
        except RefusedByApi as error:
            if _is_deregistration(error):
                raise self._explain_dismissal(error) from error
            raise

    async def _post_once(self, path: str, body: bytes) -> Mapping[str, Any]:
        self._signed_at = max(self.now(), self._signed_at + _STEP)
        token = request_signature.sign(self.enrolment.key_pem, self._thumbprint, path, body, self._signed_at)
        return await self._api.post(path, body, authorization=f"Bearer {token}")

    def _explain_dismissal(self, error: RefusedByApi) -> Deregistered:
        role, name = self.enrolment.role, self.enrolment.name
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

    def _adopt_newest(self, error: RefusedByApi) -> bool:
        """Adopt the newest time that the control plane knows, from a refusal that states one; return whether it does.

        The control plane accepts no time beyond its tolerance, so a later one is not its own.
        """
        newest = _read_newest(error.problem)
        if error.status != _UNAUTHORIZED or newest is None:
            return False
        if newest > self.now() + 2 * request_signature.CLOCK_TOLERANCE:
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
