"""Passwords: argon2id with the library's parameters, made and checked in a thread, only so many at once."""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION

from api.http.field_errors import FieldError
from api.http.problems import Problem

Result = TypeVar("Result")
_AT_ONCE: Final = 2
"""Each takes 64 MiB while it lasts."""


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """Whether a password was right; `renewed` is its hash by today's parameters, if those of the kept one are older."""

    right: bool
    renewed: str | None = None


class Argon2Hasher:
    """Hashes and checks passwords."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._nobodys = _of_nobody(self._hasher)
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="password")

    async def make(self, password: str) -> str:
        """The hash to keep."""
        return await self._run(self._hasher.hash, _normal(password))

    async def check(self, password: str, kept: str | None) -> PasswordCheck:
        """Whether a password is the one whose hash was kept; None takes as long, and is never it."""
        return await self._run(self._check, _normal(password), kept)

    async def _run(self, do: Callable[..., Result], *given: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(do, *given))

    def _check(self, password: str, kept: str | None) -> PasswordCheck:
        try:
            self._hasher.verify(kept or self._nobodys, password)
        except (VerificationError, InvalidHashError):
            return PasswordCheck(right=False)
        if kept is None:
            return PasswordCheck(right=False)
        renewed = self._hasher.hash(password) if self._hasher.check_needs_rehash(kept) else None
        return PasswordCheck(right=True, renewed=renewed)


def _of_nobody(hasher: PasswordHasher) -> str:
    """What is checked where there is no password, so that it takes the same time; nothing matches it."""
    salt, random = secrets.token_bytes(hasher.salt_len), secrets.token_bytes(hasher.hash_len)
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${cost}${_plain(salt)}${_plain(random)}"


def _plain(raw: bytes) -> str:
    return b64encode(raw).decode().rstrip("=")


def refuse_weak(password: str, name: str, field: str = "/password") -> None:
    """Raises Problem (422) for a password that is its owner's name; how long it is the schema says."""
    if _normal(password).casefold() == name.casefold():
        message = "the password is the operator's name"
        raise Problem(422, "weak_password", message, errors=[FieldError(field, message, "choose another")])


def _normal(password: str) -> str:
    # keyboards differ in how they compose what looks the same
    return unicodedata.normalize("NFC", password)
