"""How often one may guess: counted in PostgreSQL, so by all replicas together.

Attempts count for the address that they come from, and for the name that they are for. The name alone does not count at an
address from which its operator logged in lately: there the pair of both does, so that strangers cannot keep people out. Names and
addresses are kept as digests by the replicas' key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from api.http.problems import Problem
from api.runtime.tokens import TokenSigner
from model.audit_log import Actor, AuditEntry, append
from model.repositories import logins
from model.repositories.logins import LoginAllowance

OF_A_NAME: Final = LoginAllowance(free=5, longest=timedelta(minutes=15), forgotten_after=timedelta(hours=1))
OF_AN_ADDRESS: Final = LoginAllowance(free=20, longest=timedelta(minutes=15), forgotten_after=timedelta(hours=1))
"""Several people share an address behind a router, or behind what ends TLS for the API."""


@dataclass(frozen=True, slots=True)
class LoginThrottle:
    """Attempts for a name (None: for no certain one) from an address."""

    address: str
    name: str | None
    pair: str | None

    @classmethod
    def of(cls, signer: TokenSigner, address: str, name: str | None = None) -> LoginThrottle:
        """By what an address and a name are digested to; of an IPv6 address its network counts."""
        place = signer.derive("throttle address", _network(address))
        if name is None:
            return cls(place, None, None)
        return cls(place, signer.derive("throttle name", name), signer.derive("throttle pair", f"{place} {name}"))

    async def attempt(self, session: AsyncSession, now: datetime) -> Problem | None:
        """Count an attempt, as a failed one until `succeed`; or give the refusal (429) to raise once that is committed."""
        allowances = {self.address: OF_AN_ADDRESS}
        if self.name is not None and self.pair is not None:
            known = await logins.is_known(session, self._known)
            allowances[self.pair if known else self.name] = OF_A_NAME
        until = await logins.count_attempt(session, allowances, now)
        if until is None:
            return None
        refused = await logins.count_refused(session, f"refused {self.address}", now)
        if refused is not None:
            entry = AuditEntry("login_refused", "operator", detail={"attempts": refused})
            await append(session, Actor(), [entry])
        seconds = math.ceil((until - now).total_seconds())
        return Problem(
            429,
            "too_many_attempts",
            "too many attempts failed",
            hint=f"try again in {seconds} s",
            headers={"Retry-After": str(seconds)},
        )

    async def succeed(self, session: AsyncSession, now: datetime) -> None:
        """Forget the failures, and know the address from now on."""
        await logins.reset_failures(session, [key for key in (self.address, self.name, self.pair) if key])
        if self.pair is not None:
            await logins.remember_known(session, self._known, now)

    @property
    def _known(self) -> str:
        return f"known {self.pair}"


def _network(address: str) -> str:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        # who has one address of a /64 has all
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
    return str(parsed)
