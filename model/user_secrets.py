"""The secrets of users: generated with 128 random bits, shown once, and stored as a hash."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Container
from string import ascii_lowercase
from typing import Final

from model.entities import UserSecret

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_LENGTH: Final = 26
"""The characters after the slot: 5 bits each."""


def generate_secret(slot: str) -> str:
    """Generate a secret. Its first character is its slot."""
    return slot + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def store_secret(secret: str) -> UserSecret:
    """Return what is stored of a secret."""
    digest = hashlib.sha1(secret.encode(), usedforsecurity=False).digest()  # Envoy's basic_auth knows no other
    return UserSecret(secret[0], base64.b64encode(digest).decode())


def next_slot(last: str | None, used: Container[str]) -> str:
    """Return a free slot for a user's next secret, other than the one given out last if that can be had."""
    start = 0 if last is None else (ascii_lowercase.index(last) + 1) % len(ascii_lowercase)
    return next(each for each in ascii_lowercase[start:] + ascii_lowercase[:start] if each not in used)
