"""Passwords: argon2id with the library's parameters, computed in a bounded number of threads."""

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
_THREADS_MAX: Final = 2
"""Each computation takes 64 MiB."""


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """The result of a check. `rehashed` is the hash with the current parameters, if the stored hash has older ones."""

    is_correct: bool
    rehashed: str | None = None


class Argon2Hasher:
    """A hasher that computes and checks password hashes in threads."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._dummy_hash = _make_dummy_hash(self._hasher)
        self._threads = ThreadPoolExecutor(_THREADS_MAX, thread_name_prefix="password")

    async def hash(self, password: str) -> str:
        """Compute the hash to store."""
        return await self._run(self._hasher.hash, _normalize(password))

    async def check(self, password: str, stored: str | None) -> PasswordCheck:
        """Check a password against a stored hash. Without a hash the check fails, and takes as long."""
        return await self._run(self._check, _normalize(password), stored)

    async def _run(self, do: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(do, *arguments))

    def _check(self, password: str, stored: str | None) -> PasswordCheck:
        try:
            self._hasher.verify(stored or self._dummy_hash, password)
        except (VerificationError, InvalidHashError):
            return PasswordCheck(is_correct=False)
        if stored is None:
            return PasswordCheck(is_correct=False)
        rehashed = self._hasher.hash(password) if self._hasher.check_needs_rehash(stored) else None
        return PasswordCheck(is_correct=True, rehashed=rehashed)


def _make_dummy_hash(hasher: PasswordHasher) -> str:
    """Make a hash that no password matches, for checks that must take as long as those of a real hash."""
    salt, random = secrets.token_bytes(hasher.salt_len), secrets.token_bytes(hasher.hash_len)
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${cost}${_encode(salt)}${_encode(random)}"


def _encode(raw: bytes) -> str:
    return b64encode(raw).decode().rstrip("=")


def refuse_weak(password: str, name: str, field: str = "/password") -> None:
    """Refuse a password that is its owner's name; the schema checks the length. Raises Problem (422)."""
    if _normalize(password).casefold() == name.casefold():
        message = "the password is the operator's name"
        raise Problem(422, "weak_password", message, errors=[FieldError(field, message, "choose another")])


def _normalize(password: str) -> str:
    # keyboards compose the same character in different ways
    return unicodedata.normalize("NFC", password)
