"""The signature of certificates for proxies, off the event loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.exceptions import UnsupportedAlgorithm

from api.http.field_errors import FieldError
from api.http.problems import Problem
from model.authority import LEAF_LIFETIME, BadSigningRequest, CertificateAuthority, sign_request
from model.identity import Identity


@dataclass(frozen=True, slots=True)
class Issuer:
    """Signs certificates for `renewed_lifetime` where the agent renews them, and for a year where nobody does."""

    authority: CertificateAuthority
    renewed_lifetime: timedelta

    async def sign(self, csr: str, identity: Identity, now: datetime, *, renews: bool) -> str:
        """Sign a certificate (PEM). Raises Problem (422) for a bad CSR."""
        lifetime = self.renewed_lifetime if renews else LEAF_LIFETIME
        try:
            # a P-384 signature takes milliseconds, which would block the event loop
            return await asyncio.to_thread(sign_request, self.authority, csr, identity, now, lifetime)
        except BadSigningRequest as error:
            raise bad_csr(error.message, error.hint) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise bad_csr("the CSR's key or signature is of an unsupported type", "generate a P-256 key") from error


def bad_csr(message: str, hint: str) -> Problem:
    return Problem(422, "bad_csr", message, errors=[FieldError("/csr", message, hint)])
