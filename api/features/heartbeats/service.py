"""Authentication and receipt of heartbeats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from api.features.heartbeats.schemas import DialAddress, ExitHeartbeatIn, HeartbeatOut, ProxyHeartbeatIn
from api.features.orders.schemas import AgentOrderOut
from api.features.orders.service import record_results
from api.http.field_errors import FieldError
from api.http.field_types import as_id
from api.http.paths import PATH_FIELDS
from api.http.problems import Problem, invalid, not_found
from api.kernel.context import ApiContext
from api.runtime.heartbeat_sink import StaleSignature
from model import request_signature
from model.entities import Role
from model.repositories import declared, enrolment, orders
from model.repositories.enrolment import Credential
from model.repositories.heartbeats import Heartbeat
from model.request_signature import BadSignature

_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")


async def authenticate(
    context: ApiContext, *, kind: str, ref: str, authorization: str | None, path: str, body: bytes
) -> tuple[Credential, datetime]:
    """Verify that a heartbeat is signed by the proxy in the path. Return its credential and the time of the signature.

    `kind` is `exit` or `proxy`, as in the path. Raises Problem: 401 for a bad signature, 403 for another proxy's certificate,
    404 for a proxy that never existed, 410 for a removed one, and for one whose name another key took over.
    """
    with _as_unauthorized():
        claim = request_signature.read(authorization)
        if not _THUMBPRINT.fullmatch(claim.thumbprint):
            raise BadSignature(
                "the signature names no certificate", hint="set x5t#S256 to the SHA-256 of the certificate"
            )
    credential = await context.certificate_cache.find(claim.thumbprint)
    if credential is None:
        raise await _explain_unknown(context, kind, ref)
    now = context.clock()
    with _as_unauthorized():
        signed_at = request_signature.verify(claim, credential.public_key, path, body, now)
        if credential.expires_at <= now:
            raise BadSignature("the certificate has expired", hint="renew it (POST …/certificate)")
    if credential.replaced:
        raise _gone(
            kind,
            ref,
            "replaced",
            f"another registration took over this {kind}'s name",
            "stop; to take the name back, register with a token of `exitplane token create --takes-over`",
        )
    if credential.proxy_id != as_id(ref):
        hint = "send it to the id from the reply to enrolment"
        message = "the certificate belongs to another proxy"
        raise Problem(403, "wrong_certificate", message, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)])
    if kind == Role.EXIT and credential.role is not Role.EXIT:
        raise not_found(kind, ref)
    return credential, signed_at


def read_heartbeat(
    schema: type[ExitHeartbeatIn | ProxyHeartbeatIn], body: bytes, now: datetime
) -> ExitHeartbeatIn | ProxyHeartbeatIn:
    """Parse a heartbeat received at `now`. Raises Problem: 400 for a body that is not JSON, 422 for a bad field."""
    try:
        return schema.model_validate_json(body, context={"now": now})
    except ValidationError as error:
        found = error.errors()
        if found[0]["type"] == "json_invalid":
            message = f"the body is not JSON: {found[0]['ctx']['error']}"
            raise Problem(400, "not_json", message, hint="send one JSON object in UTF-8") from error
        raise invalid(_with_body_location(found)) from error


async def receive(
    context: ApiContext, credential: Credential, signed_at: datetime, beat: ExitHeartbeatIn | ProxyHeartbeatIn
) -> HeartbeatOut:
    """Pass a heartbeat to the sink and compose the reply.

    Raises Problem (401) for a heartbeat that is not newer than the last one, and DatabaseUnreachable when results of orders
    cannot be stored.
    """
    heartbeat = Heartbeat(
        proxy_id=credential.proxy_id,
        heard_at=context.clock(),
        signed_at=_order_within_second(signed_at, beat),
        tunnel_up=beat.tunnel == "up",
        envoy_up=beat.envoy == "up",
        stopping=beat.stopping,
        reason=beat.reason,
        version=beat.version,
        observation=None if beat.observation is None else beat.observation.model_dump(mode="json"),
        open_requests=beat.open_requests,
        carried_bytes=beat.carried_bytes,
        certificate=credential.thumbprint,
        metrics_address=beat.metrics_address,
    )
    try:
        context.heartbeat_sink.add(heartbeat)
    except StaleSignature as error:
        raise _unauthorized(error.message, error.hint, error.code, error.newest.isoformat()) from error
    if beat.order_results:
        await record_results(context, credential.proxy_id, [*beat.order_results])
    more: dict[str, Any] = {"authority_version": context.authority.value.version}
    if waiting := context.pending_orders.find(credential.proxy_id):
        more["orders"] = [AgentOrderOut(id=order.id, kind=order.kind, detail=dict(order.detail)) for order in waiting]
    if beat.removed_endpoints:
        more["endpoints_to_cut"] = await _endpoints_to_cut(context, credential, beat.removed_endpoints)
        more["cut"] = more["endpoints_to_cut"]
    return HeartbeatOut(state=credential.state, interval_s=context.heartbeat_interval_s, **more)


def _order_within_second(signed_at: datetime, beat: ExitHeartbeatIn | ProxyHeartbeatIn) -> datetime:
    """Return the time by which heartbeats of a proxy are ordered.

    Agents of release 0.1.0 state whole seconds. Of two reports in the same second the worse one counts as newer, so that a
    replay makes nothing better. An equal or better one is refused, and the agent's next one is accepted.
    """
    if signed_at.microsecond:
        return signed_at
    leaks = beat.observation is not None and beat.observation.leak != ""
    badness = (beat.tunnel == "down") + (beat.envoy == "down") + beat.stopping + leaks
    return signed_at + timedelta(microseconds=badness)


async def _endpoints_to_cut(
    context: ApiContext, credential: Credential, removed: Sequence[DialAddress]
) -> list[DialAddress]:
    async with context.database.session() as session:
        proxy = await declared.find_proxy(session, credential.proxy_id)
        if proxy is None:
            return []
        cut = await orders.endpoints_to_cut(session, proxy.fleet_id, [(each.address, each.port) for each in removed])
    return [DialAddress(address=address, port=port) for address, port in sorted(cut)]


@contextmanager
def _as_unauthorized() -> Iterator[None]:
    try:
        yield
    except BadSignature as error:
        raise _unauthorized(error.message, error.hint) from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        # malformed headers or claims
        raise _unauthorized(
            "the signature cannot be parsed", "sign a JWS (ES256) with aud, iat, exp and sha256"
        ) from error


async def _explain_unknown(context: ApiContext, kind: str, ref: str) -> Problem:
    proxy_id = as_id(ref)
    if proxy_id is None:
        return not_found(kind, ref)
    async with context.database.session() as session:
        if await declared.find_proxy(session, proxy_id) is not None:
            return _unauthorized("the certificate is unknown here", "enrol again")
        if await enrolment.was_removed(session, proxy_id):
            return _gone(
                kind, ref, "deregistered", f"this {kind} was deregistered", "stop, or enrol again with a join token"
            )
    return not_found(kind, ref)


def _gone(kind: str, ref: str, code: str, message: str, hint: str) -> Problem:
    return Problem(410, code, message, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)])


def _unauthorized(message: str, hint: str, code: str = BadSignature.code, value: str | None = None) -> Problem:
    errors = [FieldError("Authorization", message, hint, value)]
    return Problem(401, code, message, errors=errors, headers={"WWW-Authenticate": "Bearer"})


def _with_body_location(errors: Iterable[Any]) -> Iterable[dict[str, Any]]:
    return ({**error, "loc": ("body", *error["loc"])} for error in errors)
