"""Addresses and locations as sources report them, and parsers that accept only well-formed values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from agent.config.option_parsing import canonical_address

_TEXT_MAX_CHARS: Final = 100


class UnusableAnswer(Exception):
    """An answer that cannot be used. Its message is the reason, and stays equal while the reason is the same."""


@dataclass(frozen=True, slots=True)
class Location:
    """The location of an address, as far as a source knows it. `country` is ISO 3166-1 alpha-2, in lower case."""

    country: str | None = None
    city: str | None = None
    network: str | None = None
    time_zone: str | None = None


@dataclass(frozen=True, slots=True)
class SeenAddress:
    """An address in its canonical form (see `canonical_address`), and the location that its source reports."""

    address: str
    location: Location = field(default_factory=Location)


def parse_address(value: object) -> str:
    """Parse an IP address from outside. Raises UnusableAnswer."""
    try:
        return canonical_address(value.strip() if isinstance(value, str) else "")
    except ValueError as error:
        raise UnusableAnswer("its answer names no IP address") from error


def parse_country(value: object) -> str | None:
    """Parse a country code of two letters to lower case; None for anything else."""
    is_code = isinstance(value, str) and len(value) == 2 and value.isascii() and value.isalpha()
    return value.lower() if isinstance(value, str) and is_code else None


def parse_text(value: object) -> str | None:
    """Accept a printable text, cut to 100 characters; None for anything else."""
    return value[:_TEXT_MAX_CHARS] if isinstance(value, str) and value and value.isprintable() else None
