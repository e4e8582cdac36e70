"""The renewal of a certificate by the key that owns the proxy's name, also after the certificate expired.

See docs/decisions/0043-leaves-live-for-hours.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.enrolment.issuer import Issuer, bad_csr
from api.features.enrolment.join_token import RegistrationRequest
from api.http.field_errors import FieldError
from api.http.field_types import as_id
from api.http.paths import PATH_FIELDS
from api.http.problems import Problem, not_found
from model.entities import Role
from model.identity import Identity
from model.repositories import declared, enrolment
from model.request_signature import is_newer, public_key_of
from model.tables import ProxyRow
from model.unit_of_work import UnitOfWork


async def authenticate(session: AsyncSession, kind: str, ref: str, request: RegistrationRequest, now: datetime) -> UUID:
    """Verify that a request is signed with a key that owns the proxy in the path, and return its id.

    `kind` is `exit` or `proxy`, as in the path. Raises Problem: 401 for a bad signature, 404 for a proxy that never existed,
    410 for a removed one, and for one whose name another key took over.
    """
    proxy_id = as_id(ref)
    proxy = proxy_id and await declared.find_proxy(session, proxy_id)
    if not proxy or (kind == Role.EXIT and proxy.role != Role.EXIT):
        if proxy_id is not None and not proxy and await enrolment.was_removed(session, proxy_id):
            raise _gone(kind, ref, "deregistered", "was deregistered", "stop, or enrol again with a join token")
        raise not_found(kind, ref)
    if _signing_key(request, await enrolment.public_keys_of(session, proxy), now) is None:
        if _signing_key(request, await enrolment.replaced_keys_of(session, proxy), now) is not None:
            hint = "stop; to take the name back, register with a token of `exitplane token create --takes-over`"
            raise _gone(kind, ref, "replaced", "was taken over by another registration", hint)
        raise _unauthorized("the request is not signed with the key of this proxy", "sign it as a heartbeat")
    return proxy.id


async def renew(
    unit: UnitOfWork, issuer: Issuer, csr: str, proxy_id: UUID, request: RegistrationRequest, now: datetime
) -> str:
    """Sign a certificate (PEM) for the key that signed the request.

    Raises Problem: 401 for a signature that is not newer than that of the last renewal, or whose key owns the name no more, and
    422 for a CSR that is bad, or for another key.
    """
    proxy = await declared.lock(unit.session, ProxyRow, proxy_id)
    keys = [] if proxy is None else await enrolment.public_keys_of(unit.session, proxy)
    found = _signing_key(request, keys, now)
    if proxy is None or found is None:
        raise _unauthorized("the proxy was removed or taken over just now", "ask again, which tells the reason")
    key, signed_at = found
    newest = await enrolment.newest_renewal(unit.session, proxy.id)
    if newest is not None and not is_newer(signed_at, newest, now):
        message = "the signature is not newer than the last one"
        raise _unauthorized(message, "sign each request anew", "stale_signature", newest.isoformat())
    certificate = await issuer.sign(csr, Identity(proxy.fleet_id, Role(proxy.role), proxy.id), now, renews=True)
    if public_key_of(certificate) != key:
        raise bad_csr("the CSR is for another key than the request is signed with", "use the proxy's own key")
    await enrolment.record_certificate(unit, proxy.id, certificate, issuer.authority, now, signed_at)
    return certificate


def _signing_key(request: RegistrationRequest, keys: Iterable[str], now: datetime) -> tuple[str, datetime] | None:
    """Return the key (PEM) that signed a request, and when; None if it is none of these."""
    for key in keys:
        if (signed_at := request.signed_at(key, now)) is not None:
            return key, signed_at
    return None


def _gone(kind: str, ref: str, code: str, what: str, hint: str) -> Problem:
    message = f"this {kind} {what}"
    return Problem(410, code, message, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)])


def _unauthorized(message: str, hint: str, code: str = "bad_signature", value: str | None = None) -> Problem:
    errors = [FieldError("Authorization", message, hint, value)]
    return Problem(401, code, message, errors=errors, headers={"WWW-Authenticate": "Bearer"})
