"""Who a heartbeat comes from, and handing it on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from api.features.heartbeats.schemas import DialAddress, ExitHeartbeatIn, HeartbeatOut, ProxyHeartbeatIn
from api.features.orders.schemas import OrderSaid
from api.features.orders.service import settle
from api.http.field_errors import FieldError
from api.http.field_types import as_id
from api.http.paths import PATH_FIELDS
from api.http.problems import Problem, invalid, not_found
from api.kernel.context import ApiContext
from model import request_signature
from model.entities import Role
from model.repositories import declared, enrolment, orders
from model.repositories.enrolment import Credential
from model.repositories.heartbeats import Heartbeat
from model.request_signature import BadSignature

_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")


async def authenticate(
    context: ApiContext, *, kind: str, ref: str, authorization: str | None, path: str, body: bytes
) -> Credential:
    """The proxy that a heartbeat comes from: the one in the path, as its certificate's proof shows.

    `kind` is `exit` or `proxy`, as in the path. Raises Problem: 401 without a good proof, 403 for another's certificate,
    404 for a proxy that never was, 410 for one that was removed and should enrol again.
    """
    with _as_unauthorized():
        claim = request_signature.read(authorization)
        if not _THUMBPRINT.fullmatch(claim.thumbprint):
            raise BadSignature("the proof names no certificate", hint="set x5t#S256 to the SHA-256 of the certificate")
    credential = await context.credentials.find(claim.thumbprint)
    if credential is None:
        raise await _explain_unknown(context, kind, ref)
    now = context.clock()
    with _as_unauthorized():
        request_signature.verify(claim, credential.public_key, path, body, now)
        if credential.expires_at <= now:
            raise BadSignature("the certificate has expired", hint="enrol again")
    if credential.proxy_id != as_id(ref):
        hint = "send it to the id that enrolment gave"
        message = "the certificate belongs to another"
        raise Problem(403, "not_yours", message, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)])
    if kind == Role.EXIT and credential.role is not Role.EXIT:
        raise not_found(kind, ref)
    return credential


def read_heartbeat(
    schema: type[ExitHeartbeatIn | ProxyHeartbeatIn], body: bytes, now: datetime
) -> ExitHeartbeatIn | ProxyHeartbeatIn:
    """The heartbeat in a body that comes `now`. Raises Problem: 400 for what is not JSON, 422 for what is no heartbeat."""
    try:
        return schema.model_validate_json(body, context={"now": now})
    except ValidationError as error:
        found = error.errors()
        if found[0]["type"] == "json_invalid":
            message = f"the body is not JSON: {found[0]['ctx']['error']}"
            raise Problem(400, "not_json", message, hint="send one JSON object in UTF-8") from error
        raise invalid(_in_body(found)) from error


async def hear(context: ApiContext, credential: Credential, said: ExitHeartbeatIn | ProxyHeartbeatIn) -> HeartbeatOut:
    """Take in what a proxy said. Raises DatabaseUnreachable where that cannot wait to be written."""
    if said.settled:
        await settle(context, credential.proxy_id, [*said.settled])
    context.sink.hear(
        Heartbeat(
            proxy_id=credential.proxy_id,
            heard_at=context.clock(),
            tunnel_up=said.tunnel == "up",
            envoy_up=said.envoy == "up",
            leaving=said.leaving,
            reason=said.reason,
            version=said.version,
            observation=None if said.observation is None else said.observation.model_dump(mode="json"),
            open_requests=said.open_requests,
            carried_bytes=said.carried_bytes,
        )
    )
    more: dict[str, Any] = {}
    if waiting := context.orders.of(credential.proxy_id):
        more["orders"] = [OrderSaid(id=order.id, kind=order.kind, detail=dict(order.detail)) for order in waiting]
    if said.gone:
        more["cut"] = await _to_cut(context, credential, said.gone)
    return HeartbeatOut(state=credential.state, interval_s=context.heartbeat_interval_s, **more)


async def _to_cut(context: ApiContext, credential: Credential, gone: Sequence[DialAddress]) -> list[DialAddress]:
    async with context.database.session() as session:
        proxy = await declared.find_proxy(session, credential.proxy_id)
        if proxy is None:
            return []
        cut = await orders.endpoints_to_cut(session, proxy.fleet_id, [(each.address, each.port) for each in gone])
    return [DialAddress(address=address, port=port) for address, port in sorted(cut)]


@contextmanager
def _as_unauthorized() -> Iterator[None]:
    try:
        yield
    except BadSignature as error:
        raise _unauthorized(error.message, error.hint) from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        # headers and claims of a kind that nobody would sign on purpose
        raise _unauthorized(
            "the proof cannot be read", "make it a JWS (ES256) with aud, iat, exp and sha256"
        ) from error


async def _explain_unknown(context: ApiContext, kind: str, ref: str) -> Problem:
    proxy_id = as_id(ref)
    if proxy_id is None:
        return not_found(kind, ref)
    async with context.database.session() as session:
        if await declared.find_proxy(session, proxy_id) is not None:
            return _unauthorized("the certificate is not known here", "enrol again")
        if await enrolment.was_known(session, proxy_id):
            return _deregistered(kind, ref)
    return not_found(kind, ref)


def _deregistered(kind: str, ref: str) -> Problem:
    message, hint = f"this {kind} was deregistered", "stop, or enrol again with a join token"
    return Problem(410, "deregistered", message, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)])


def _unauthorized(message: str, hint: str) -> Problem:
    errors = [FieldError("Authorization", message, hint)]
    return Problem(401, "bad_proof", message, errors=errors, headers={"WWW-Authenticate": "Bearer"})


def _in_body(errors: Iterable[Any]) -> Iterable[dict[str, Any]]:
    return ({**error, "loc": ("body", *error["loc"])} for error in errors)


def removed(context: ApiContext, proxy_id: UUID) -> None:
    """A proxy was removed: its certificates are worth nothing, from now on and on this replica at once."""
    context.credentials.forget(proxy_id)
    context.sink.forget(proxy_id)
