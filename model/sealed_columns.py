"""Columns whose values are sealed in the database, and the keyring of each engine."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from sqlalchemy import Column, LargeBinary, String
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from model.encryption import Keyring, MissingEncryptionKey, from_text, to_text

_KEYRINGS: WeakKeyDictionary[Dialect, Keyring] = WeakKeyDictionary()


def use_keyring(dialect: Dialect, keyring: Keyring) -> None:
    """Seal and open the secrets of an engine, which has a dialect of its own, with these keys."""
    _KEYRINGS[dialect] = keyring


def _keyring_of(dialect: Dialect) -> Keyring:
    try:
        return _KEYRINGS[dialect]
    except KeyError:
        raise MissingEncryptionKey(
            "this connection has no key for secrets", hint="open the database with the keyring of the control plane"
        ) from None


class SealedText(TypeDecorator[str]):
    """A column of text whose values are sealed in the database, and open only for this column (`purpose`)."""

    impl = String
    cache_ok = True

    def __init__(self, purpose: str) -> None:
        super().__init__()
        self.purpose = purpose

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else to_text(_keyring_of(dialect).seal(value.encode(), self.purpose))

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else _keyring_of(dialect).open(from_text(value), self.purpose).decode()


class SealedBytes(TypeDecorator[bytes]):
    """A column of bytes whose values are sealed in the database, and open only for this column (`purpose`)."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, purpose: str) -> None:
        super().__init__()
        self.purpose = purpose

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        return None if value is None else _keyring_of(dialect).seal(value, self.purpose)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        return None if value is None else _keyring_of(dialect).open(value, self.purpose)


def sealed_text(purpose: str, *, nullable: bool = False) -> Column[str]:
    return Column(SealedText(purpose), nullable=nullable)


def sealed_bytes(purpose: str) -> Column[bytes]:
    return Column(SealedBytes(purpose), nullable=False)
