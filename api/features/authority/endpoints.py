"""GET /authority/crl."""

from __future__ import annotations

from typing import Annotated, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import APIRouter, Depends, Header, Response

from api.http.openapi import document_operator_errors
from api.kernel.caller import Caller, Permission
from api.kernel.context import Context
from model.authority import sign_crl
from model.repositories import authorities

router = APIRouter(prefix="/authority", tags=["authority"])
_DER: Final = "application/pkix-crl"
"""The media type of RFC 2585, section 4.2."""
_PEM: Final = "application/x-pem-file"
_TEXT: Final[dict[str, Any]] = {"schema": {"type": "string"}}
_CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The revocation list",
        "content": {_PEM: _TEXT, _DER: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/crl", response_class=Response, responses={**document_operator_errors(), **_CONTENT})
async def read_revocation_list(
    context: Context,
    caller: Annotated[Caller, Depends(Permission("authority"))],  # noqa: ARG001 - any operator may read it
    accept: Annotated[str, Header(description="`application/pkix-crl` for DER; everything else gets PEM.")] = "",
) -> Response:
    """Sign the list of revoked certificates (RFC 5280): valid ones of proxies that were removed or taken over.

    It is valid for a week, and has serial numbers and times, but no names. An API key needs the scope `authority:read`.
    """
    now, authority = context.clock(), context.authority.value
    async with context.database.session() as session:
        revoked = await authorities.revoked(session, authority.issuer_id, now)
    media_type, encoding = (_DER, Encoding.DER) if _DER in accept.lower() else (_PEM, Encoding.PEM)
    signed = sign_crl(authority, revoked, now).public_bytes(encoding)
    return Response(signed, media_type=media_type, headers={"Vary": "Accept"})
