"""Errors of the API: `application/problem+json` (RFC 9457) with the field, the value and a hint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import compile_path

from api.http.field_errors import FieldError, show_value
from api.http.paths import PATH_FIELDS, PLURALS
from api.http.validators import field_errors
from model.database import DatabaseUnreachable
from model.repositories.constraints import violated

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
DUPLICATE = "duplicate"


class Problem(HTTPException):
    """An error response with a stable `code`. Any code below an endpoint may raise it, which rolls a write back."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str = "",
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.message = message
        self.hint = hint or (errors[0].hint if errors else "")
        self.errors = tuple(errors)


def not_found(kind: str, ref: str) -> Problem:
    """Make a 404 for a path whose resource does not exist."""
    hint = f"GET /api/v1/{PLURALS.get(kind, kind + 's')} lists the existing ones"
    message = f"there is no such {kind}"
    return Problem(
        404, f"unknown_{kind}", message, hint=hint, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)]
    )


def unknown(kind: str, field: str, value: str, message: str = "") -> Problem:
    """Make a 422 for a body that refers to a resource that does not exist."""
    message = message or f"there is no such {kind}"
    error = FieldError(field, message, f"create it first, or send one that GET /api/v1/{kind}s lists", value)
    return Problem(422, f"unknown_{kind}", message, errors=[error])


def duplicate(field: str, value: str, message: str, hint: str = "choose another") -> Problem:
    """Make a 409 for a unique value that another resource has."""
    return Problem(409, DUPLICATE, message, errors=[FieldError(field, message, hint, value)])


def in_use(kind: str, ref: str, message: str, hint: str) -> Problem:
    """Make a 409 for the deletion of a resource that others refer to."""
    return Problem(409, "in_use", message, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)])


@contextmanager
def clashes(problems: Mapping[str, Problem]) -> Iterator[None]:
    """Convert the violation of a constraint to the Problem under the constraint's name.

    Nothing is looked up beforehand, because only constraints hold when two requests write at once.
    """
    try:
        yield
    except IntegrityError as error:
        problem = problems.get(violated(error) or "")
        if problem is None:
            raise
        raise problem from error


@contextmanager
def locate_errors(pointer: str, *, whole: bool = False) -> Iterator[None]:
    """Prefix the fields of a Problem that the block raises with `pointer`.

    A field that is no JSON pointer into the body becomes `pointer` itself; with `whole` every field does.
    """
    try:
        yield
    except Problem as problem:
        problem.errors = tuple(
            replace(error, field=pointer if whole or not error.field.startswith("/") else pointer + error.field)
            for error in problem.errors
        )
        raise


def respond(problem: Problem) -> Response:
    """Build the response for a problem."""
    body = {
        "type": f"urn:exitplane:problem:{problem.code}",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": problem.message,
        "code": problem.code,
        "hint": problem.hint,
        "errors": [
            {"field": error.field, "value": show_value(error.value), "message": error.message, "hint": error.hint}
            for error in problem.errors
        ],
    }
    # json's ASCII keeps unpaired surrogates, which a client may send, from failing when they are encoded
    content = json.dumps(body).encode()
    return Response(content, problem.status_code, headers=dict(problem.headers or {}), media_type=MEDIA_TYPE)


def invalid(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """Make a 422 from pydantic's list of errors. Each `loc` begins with `body`, `query` or `path`."""
    listed = field_errors(errors)
    first = listed[0]
    return Problem(422, "invalid", f"{first.field or 'the body'}: {first.message}", hint=first.hint, errors=listed)


_FRAMEWORK_PROBLEMS = {
    404: ("no_such_path", "this path does not exist", "see /docs for the paths"),
    405: ("no_such_method", "this path does not support this method", "see the Allow header"),
}


def _convert_framework_error(error: StarletteHTTPException) -> Problem:
    fallback = ("refused", str(error.detail), "see /docs")
    code, message, hint = _FRAMEWORK_PROBLEMS.get(error.status_code, fallback)
    return Problem(error.status_code, code, message, hint=hint, headers=error.headers)


def _list_methods(request: Request) -> list[str]:
    """List the methods of a request's path, from the OpenAPI document."""
    paths: Mapping[str, Mapping[str, Any]] = request.app.openapi()["paths"]
    path = request.url.path
    matching = [paths[path]] if path in paths else [paths[each] for each in paths if compile_path(each)[0].match(path)]
    return sorted({method.upper() for methods in matching for method in methods})


def of_outage(error: DatabaseUnreachable) -> Problem:
    """Make a 503 for the time in which PostgreSQL cannot be reached. The outage ends by itself."""
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return Problem(503, error.code, error.message, hint=error.hint, headers=headers)


def install(app: FastAPI) -> None:
    """Have `app` respond to every error with a problem."""

    @app.exception_handler(Problem)
    async def of_problem(_: Request, error: Problem) -> Response:
        return respond(error)

    @app.exception_handler(StarletteHTTPException)
    async def of_framework(request: Request, error: StarletteHTTPException) -> Response:
        problem = _convert_framework_error(error)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # the framework lists the methods of the path's first route only
            problem.headers = {"Allow": ", ".join(_list_methods(request))}
        return respond(problem)

    @app.exception_handler(RequestValidationError)
    async def of_validation(_: Request, error: RequestValidationError) -> Response:
        return respond(invalid(error.errors()))

    @app.exception_handler(DatabaseUnreachable)
    async def of_unreachable(_: Request, error: DatabaseUnreachable) -> Response:
        return respond(of_outage(error))
