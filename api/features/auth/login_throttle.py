"""The limit on login attempts. PostgreSQL holds the counters, so all replicas share them.

Attempts count per client address and per operator name. An address from which the operator logged in lately has a counter of its
own for that name, so strangers cannot lock the operator out. Names and addresses are stored as digests keyed by the replicas' key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from api.http.problems import Problem
from api.runtime.tokens import TokenSigner
from model.audit_log import Actor, AuditEntry, append
from model.client_address import client_network
from model.repositories import logins
from model.repositories.logins import LoginAllowance

OF_A_NAME: Final = LoginAllowance(free=5, longest=timedelta(minutes=15), forgotten_after=timedelta(hours=1))
OF_AN_ADDRESS: Final = LoginAllowance(free=20, longest=timedelta(minutes=15), forgotten_after=timedelta(hours=1))
"""More than for a name: several people share an address behind a router or a TLS proxy."""


@dataclass(frozen=True, slots=True)
class LoginThrottle:
    """The counter keys of one attempt: client address, operator name, and both together (None without a name)."""

    address: str
    name: str | None
    pair: str | None

    @classmethod
    def of(cls, signer: TokenSigner, address: str, name: str | None = None) -> LoginThrottle:
        """Derive the keys from an address and a name. An IPv6 address counts by its /64 network."""
        network = signer.derive("throttle address", client_network(address))
        if name is None:
            return cls(network, None, None)
        return cls(network, signer.derive("throttle name", name), signer.derive("throttle pair", f"{network} {name}"))

    async def attempt(self, session: AsyncSession, now: datetime) -> Problem | None:
        """Count an attempt as failed until `succeed` is called. Return the Problem (429) to raise after the commit, if refused."""
        allowances = {self.address: OF_AN_ADDRESS}
        if self.name is not None and self.pair is not None:
            known = await logins.is_known(session, self._known_key)
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
            "too many login attempts failed",
            hint=f"try again in {seconds} s",
            headers={"Retry-After": str(seconds)},
        )

    async def succeed(self, session: AsyncSession, now: datetime) -> None:
        """Clear the failures, and remember the address as known for this name."""
        await logins.reset_failures(session, [key for key in (self.address, self.name, self.pair) if key])
        if self.pair is not None:
            await logins.remember_known(session, self._known_key, now)

    @property
    def _known_key(self) -> str:
        return f"known {self.pair}"
