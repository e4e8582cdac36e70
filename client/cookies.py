"""The cookies of one host, as far as a login through an OIDC provider needs them (RFC 6265)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Cookie:
    value: str
    path: str
    secure: bool
    expires_at: float | None
    """In seconds of the jar's clock; None for a cookie that expires with the jar."""


class CookieJar:
    """The cookies that a host set."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cookies: dict[tuple[str, str], _Cookie] = {}

    def update(self, fields: Iterable[str]) -> None:
        """Store the cookies of `Set-Cookie` fields, with Path, Secure and Max-Age; 0 or less removes a cookie."""
        for field in fields:
            pair, *rest = field.split(";")
            name, _, value = pair.strip().partition("=")
            parts = [part.strip().partition("=") for part in rest]
            attributes = {key.lower(): text for key, _, text in parts}
            path = attributes.get("path") or "/"
            lifetime_s = _seconds(attributes.get("max-age", ""))
            if lifetime_s is not None and lifetime_s <= 0:
                self._cookies.pop((name, path), None)
            elif name:
                expires_at = None if lifetime_s is None else self._clock() + lifetime_s
                self._cookies[name, path] = _Cookie(value, path, "secure" in attributes, expires_at)

    def header(self, path: str, *, secure: bool) -> str:
        """Return the value of `Cookie` for a request to a path; empty if no cookie applies."""
        now = self._clock()
        return "; ".join(
            f"{name}={cookie.value}"
            for (name, _), cookie in self._cookies.items()
            if (cookie.expires_at is None or now < cookie.expires_at)
            and (secure or not cookie.secure)
            and _covers(cookie.path, path)
        )


def _covers(prefix: str, path: str) -> bool:
    # RFC 6265, section 5.1.4
    return path == prefix or (path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix)] == "/"))


def _seconds(text: str) -> int | None:
    return int(text) if text.removeprefix("-").isdecimal() else None
