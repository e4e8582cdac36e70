"""What the API says when it refuses: `application/problem+json` (RFC 9457) that names the field, the value and the hint."""

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

from api.http.field_errors import FieldError, shown
from api.http.paths import PATH_FIELDS, PLURALS
from api.http.validators import field_errors
from model.database import DatabaseUnreachable
from model.repositories.constraints import violated

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
DUPLICATE = "duplicate"


class Problem(HTTPException):
    """A refusal with a stable `code`. Raised anywhere below an endpoint; a write that raises it leaves nothing behind."""

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
    """404 for a path that names a thing that is not there."""
    hint = f"GET /api/v1/{PLURALS.get(kind, kind + 's')} lists those there are"
    message = f"there is no such {kind}"
    return Problem(
        404, f"unknown_{kind}", message, hint=hint, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)]
    )


def unknown(kind: str, field: str, value: str, message: str = "") -> Problem:
    """422 for a body that refers to a thing that is not there."""
    message = message or f"there is no such {kind}"
    error = FieldError(field, message, f"create it first, or name one that GET /api/v1/{kind}s lists", value)
    return Problem(422, f"unknown_{kind}", message, errors=[error])


def duplicate(field: str, value: str, message: str, hint: str = "choose another") -> Problem:
    """409 for a value that something else has already."""
    return Problem(409, DUPLICATE, message, errors=[FieldError(field, message, hint, value)])


def in_use(kind: str, ref: str, message: str, hint: str) -> Problem:
    """409 for removing what others refer to."""
    return Problem(409, "in_use", message, errors=[FieldError(PATH_FIELDS[kind], message, hint, ref)])


@contextmanager
def clashes(problems: Mapping[str, Problem]) -> Iterator[None]:
    """Turn a violated constraint, by its name, into its problem.

    The constraints are what holds when two write at once, so they alone decide; nothing is looked up beforehand.
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
            {"field": error.field, "value": shown(error.value), "message": error.message, "hint": error.hint}
            for error in problem.errors
        ],
    }
    # json's ASCII keeps unpaired surrogates, which a client may send, from failing when they are encoded
    content = json.dumps(body).encode()
    return Response(content, problem.status_code, headers=dict(problem.headers or {}), media_type=MEDIA_TYPE)


def invalid(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """422 for what pydantic found; `errors` as it lists them, with `loc` beginning with where the value stood."""
    listed = field_errors(errors)
    first = listed[0]
    return Problem(422, "invalid", f"{first.field or 'the body'}: {first.message}", hint=first.hint, errors=listed)


_PLAIN = {
    404: ("no_such_path", "there is nothing at this path", "see /docs for the paths"),
    405: ("no_such_method", "this path does not take this method", "see the Allow header"),
}


def _of_framework(error: StarletteHTTPException) -> Problem:
    fallback = ("refused", str(error.detail), "see /docs")
    code, message, hint = _PLAIN.get(error.status_code, fallback)
    return Problem(error.status_code, code, message, hint=hint, headers=error.headers)


def _methods(request: Request) -> list[str]:
    """What the path of a request takes, as the OpenAPI document has it."""
    paths: Mapping[str, Mapping[str, Any]] = request.app.openapi()["paths"]
    path = request.url.path
    taken = [paths[path]] if path in paths else [paths[each] for each in paths if compile_path(each)[0].match(path)]
    return sorted({method.upper() for methods in taken for method in methods})


def of_outage(error: DatabaseUnreachable) -> Problem:
    """503: PostgreSQL is away, a named mode that ends by itself."""
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return Problem(503, error.code, error.message, hint=error.hint, headers=headers)


def install(app: FastAPI) -> None:
    """Have `app` answer every refusal in this form."""

    @app.exception_handler(Problem)
    async def of_problem(_: Request, error: Problem) -> Response:
        return respond(error)

    @app.exception_handler(StarletteHTTPException)
    async def of_framework(request: Request, error: StarletteHTTPException) -> Response:
        problem = _of_framework(error)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # the framework names the methods of the first of the path's routes alone
            problem.headers = {"Allow": ", ".join(_methods(request))}
        return respond(problem)

    @app.exception_handler(RequestValidationError)
    async def of_validation(_: Request, error: RequestValidationError) -> Response:
        return respond(invalid(error.errors()))

    @app.exception_handler(DatabaseUnreachable)
    async def of_unreachable(_: Request, error: DatabaseUnreachable) -> Response:
        return respond(of_outage(error))
