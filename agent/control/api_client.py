"""The agent's client of the control plane's REST API."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from yarl import URL

from agent.config.identity import Enrolment
from agent.config.settings import AgentSettings
from model.errors import ExitplaneError

PROBLEM: Final = "application/problem+json"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, connect=5)
_TOO_MANY_REQUESTS: Final = 429
_SHOWN_CHARS: Final = 300
_SECRET_FIELDS: Final = ("join_token", "csr")


class ApiUnavailable(ExitplaneError):
    """The API cannot be reached, or answers 429 or 5xx; retry later. `retry_after_s` is its Retry-After, or None."""

    code = "api_unavailable"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedByApi(ExitplaneError):
    """The API refused the request, and a retry is useless. `problem` is the problem+json body, empty for another body.

    `answered_at` is the answer's Date header, or None.
    """

    code = "refused"

    def __init__(
        self, status: int, message: str, hint: str, problem: Mapping[str, Any], answered_at: datetime | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.problem = problem
        self.answered_at = answered_at


def open_context(authorities: Iterable[str], *, system: bool) -> ssl.SSLContext:
    """Return a context that trusts authorities in PEM, and those of the system too if `system`."""
    context = ssl.create_default_context() if system else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for each in authorities:
        context.load_verify_locations(cadata=each)
    return context


def trust(settings: AgentSettings, enrolment: Enrolment | None = None) -> ssl.SSLContext:
    """Return a context that trusts the authority of --api-ca, or the system's, and after the enrolment the control plane's."""
    given = [settings.api_ca] if settings.api_ca is not None else []
    own = [enrolment.authority_pem] if enrolment is not None else []
    return open_context([*given, *own], system=settings.api_ca is None)


@dataclass(frozen=True, slots=True)
class ApiClient:
    """Posts JSON to the API at `url` (`http://host:port`, or below a path)."""

    session: aiohttp.ClientSession
    url: URL
    timeout: aiohttp.ClientTimeout = field(default=_TIMEOUT)
    tls: ssl.SSLContext | None = None
    """The authorities that sign the API's certificate; None: those of the system."""

    async def post(self, path: str, body: bytes, authorization: str | None = None) -> Mapping[str, Any]:
        """Post a body and return the reply's JSON object. `path` begins with `/api/v1`.

        Raises ApiUnavailable or RefusedByApi.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        url = self.url.with_path(self.url.path.rstrip("/") + path)
        try:
            async with self.session.post(
                url, data=body, headers=headers, timeout=self.timeout, ssl=self.tls or True, allow_redirects=False
            ) as response:
                return _read_reply(url, response, await response.read())
        except TimeoutError as error:
            raise ApiUnavailable(f"{self.url} did not answer in time") from error
        except aiohttp.ClientConnectorCertificateError as error:
            reason = getattr(error.certificate_error, "verify_message", str(error.certificate_error))
            raise ApiUnavailable(
                f"the certificate of {self.url} is not trusted ({reason}); name its authority's file with --api-ca"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiUnavailable(f"{self.url} cannot be reached ({error})") from error


def _read_reply(url: URL, response: aiohttp.ClientResponse, body: bytes) -> Mapping[str, Any]:
    answer = _parse_object(body)
    if response.ok and response.status < 300:
        if answer is None:
            raise RefusedByApi(response.status, f"{url} gave an answer that is not JSON", "check --api", {})
        return answer
    problem = answer if answer is not None and response.content_type == PROBLEM else {}
    if response.status >= 500 or response.status == _TOO_MANY_REQUESTS:
        reason = _first_line(problem.get("detail")) or response.reason or ""
        raise ApiUnavailable(f"{url} answered {response.status} ({reason})", _read_retry_after_s(response))
    summary, hint = _summarize(problem)
    message = f"{url} answered {response.status}: {summary or response.reason}"
    raise RefusedByApi(response.status, message, hint, problem, _read_date(response))


def _parse_object(body: bytes) -> Mapping[str, Any] | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _read_retry_after_s(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _read_date(response: aiohttp.ClientResponse) -> datetime | None:
    try:
        date = parsedate_to_datetime(response.headers.get("Date", ""))
    except ValueError:
        return None
    return date if date.tzinfo is not None else None


def _summarize(problem: Mapping[str, Any]) -> tuple[str, str]:
    """Return a problem's message and hint, with field, value and message of the first error."""
    errors = problem.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    message = _first_line(problem.get("detail")) or _first_line(problem.get("title"))
    field_ = _first_line(first.get("field")).lstrip("/")
    if field_ and first.get("value") is not None and field_ not in _SECRET_FIELDS:
        field_ += f"={_first_line(str(first['value']))!r}"
    detail = _first_line(first.get("message"))
    parts = [message, field_, "" if detail == message else detail]
    hint = _first_line(first.get("hint")) or _first_line(problem.get("hint"))
    return ": ".join(part for part in parts if part), hint


def _first_line(text: object) -> str:
    if not isinstance(text, str):
        return ""
    return next(iter(text.strip().splitlines()), "")[:_SHOWN_CHARS]
