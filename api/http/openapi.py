"""What /docs and /openapi.json say beyond what the endpoints declare themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic import Field
from starlette.routing import BaseRoute

from api.http.field_errors import Scalar
from api.http.field_types import ResponseModel
from api.http.paths import PROXIES_HEADER, REVISION_HEADER
from api.http.problems import MEDIA_TYPE
from api.http.public_routes import is_open

_DESCRIPTIONS = {
    400: "The body is not JSON",
    401: "No good credential",
    403: "Not for this caller",
    404: "There is no such thing",
    409: "It clashes with something else, or is still referred to",
    410: "It was deregistered",
    412: "It changed since it was read",
    413: "The body is over 1 MiB",
    415: "The body's content type is not JSON",
    422: "A field is wrong",
    429: "Too many attempts failed",
    503: "PostgreSQL is away",
}


_SENTINEL = {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "Of VPN Sentinel's clients."}
_FRAMEWORK_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""The framework's own form of refusals, which is never sent."""


class FieldErrorView(ResponseModel):
    field: str = Field(description="A JSON pointer into the body, `?name` of the query or `{name}` of the path.")
    value: Scalar = Field(description="What was refused, shortened; never a secret.")
    message: str
    hint: str


class ProblemView(ResponseModel):
    """RFC 9457, with a stable `code` and the hint."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    errors: list[FieldErrorView]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of refusals, for an endpoint's `responses`; 503 is among them always."""
    return {status: {"model": ProblemView, "description": _DESCRIPTIONS[status]} for status in (*statuses, 503)}


def for_operators(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for what operators call."""
    return problems(401, 403, *statuses)


def written(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for what takes a body."""
    return for_operators(400, 413, 415, 422, *statuses)


def document(*, title: str, version: str, description: str, routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of an application with these routes."""
    made = get_openapi(title=title, version=version, description=description, routes=routes)
    scheme = {"type": "http", "scheme": "bearer", "bearerFormat": "JWS by the key of the proxy's certificate"}
    operator = {"type": "http", "scheme": "bearer", "description": "An access token, or an API key (`ep-key-…`)."}
    schemes = {"proof": scheme, "operator": operator, "sentinel": _SENTINEL}
    made.setdefault("components", {})["securitySchemes"] = schemes
    for name in _FRAMEWORK_SCHEMAS:
        made["components"]["schemas"].pop(name, None)
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            _complete(method, operation)
            if not is_open(method.upper(), path):
                operation.setdefault("security", [{"operator": []}])
    return made


def _complete(method: str, operation: dict[str, Any]) -> None:
    if "HTTPValidationError" in str(operation["responses"].get("422")):
        # the framework adds it wherever there is a parameter, also where any text will do
        del operation["responses"]["422"]
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if int(status) >= 400 and "Problem" in str(content):
            response["content"] = {MEDIA_TYPE: content["application/json"]}
        if (
            int(status) < 300
            and method != "get"
            and "security" not in operation
            and "auth" not in operation.get("tags", ())
        ):
            described = {"description": "The revision that this made", "schema": {"type": "integer"}}
            response.setdefault("headers", {})[REVISION_HEADER] = described
            counts = {
                "description": "With `Prefer: wait`: acknowledged=2, rejected=0, pending=1",
                "schema": {"type": "string"},
            }
            response["headers"][PROXIES_HEADER] = counts
