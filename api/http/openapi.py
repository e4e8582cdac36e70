"""The parts of the OpenAPI document that the endpoints do not declare themselves."""

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
from api.http.public_routes import is_public

_DESCRIPTIONS = {
    400: "The body is not JSON",
    401: "The credential is missing or not valid",
    403: "The caller may not do this",
    404: "The resource does not exist",
    409: "It conflicts with another resource, or another one refers to it",
    410: "It was deregistered, or another registration took over its name",
    412: "It has changed since it was read",
    413: "The body is larger than 1 MiB",
    415: "The body's content type is not JSON",
    422: "A field is not valid",
    429: "Too many attempts failed",
    503: "PostgreSQL cannot be reached",
}
_SENTINEL = {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The key of a VPN Sentinel client."}
_FRAMEWORK_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""The framework's schemas of errors, which the API never sends."""


class FieldErrorView(ResponseModel):
    field: str = Field(description="A JSON pointer into the body, `?name` of the query or `{name}` of the path.")
    value: Scalar = Field(description="The refused value, shortened; never a secret.")
    message: str
    hint: str


class ProblemView(ResponseModel):
    """A problem (RFC 9457) with a stable `code` and a hint."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str
    errors: list[FieldErrorView]


def document_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document errors for an endpoint's `responses`; 503 is always among them."""
    return {status: {"model": ProblemView, "description": _DESCRIPTIONS[status]} for status in (*statuses, 503)}


def document_operator_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document errors of an endpoint for operators: those of `document_errors`, with 401 and 403."""
    return document_errors(401, 403, *statuses)


def document_write_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document errors of an endpoint with a body: those of `document_operator_errors`, with 400, 413, 415 and 422."""
    return document_operator_errors(400, 413, 415, 422, *statuses)


def build_openapi(*, title: str, version: str, description: str, routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Build the OpenAPI document of an application with these routes."""
    built = get_openapi(title=title, version=version, description=description, routes=routes)
    signature = {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWS",
        "description": "A JWS over the path and the body, signed with the key of the proxy's certificate.",
    }
    operator = {"type": "http", "scheme": "bearer", "description": "An access token, or an API key (`ep-key-…`)."}
    schemes = {"signature": signature, "operator": operator, "sentinel": _SENTINEL}
    built.setdefault("components", {})["securitySchemes"] = schemes
    for name in _FRAMEWORK_SCHEMAS:
        built["components"]["schemas"].pop(name, None)
    for path, operations in built["paths"].items():
        for method, operation in operations.items():
            _complete(method, operation)
            if not is_public(method.upper(), path):
                operation.setdefault("security", [{"operator": []}])
    return built


def _complete(method: str, operation: dict[str, Any]) -> None:
    if "HTTPValidationError" in str(operation["responses"].get("422")):
        # the framework adds it to every operation with a parameter, even if the parameter takes any text
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
            described = {"description": "The revision that this write made", "schema": {"type": "integer"}}
            response.setdefault("headers", {})[REVISION_HEADER] = described
            counts = {
                "description": "With `Prefer: wait`: acknowledged=2, rejected=0, pending=1",
                "schema": {"type": "string"},
            }
            response["headers"][PROXIES_HEADER] = counts
