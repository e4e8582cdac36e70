"""What one source says of the address that traffic comes from, and what is believed of a text that came from outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from agent.config.option_parsing import canonical_address

_TEXT_MAX: Final = 100


class UnusableAnswer(Exception):
    """What was answered is of no use; why, in words that stay the same while it is."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where an address is, as far as somebody knows. `country` is ISO 3166-1 alpha-2, in lower case."""

    country: str | None = None
    city: str | None = None
    network: str | None = None
    time_zone: str | None = None


@dataclass(frozen=True, slots=True)
class SeenAddress:
    """An address in its one form (see `canonical_address`), and where its source says it is."""

    address: str
    place: Location = field(default_factory=Location)


def read_address(said: object) -> str:
    """An IP address as somebody outside writes it. Raises Useless."""
    try:
        return canonical_address(said.strip() if isinstance(said, str) else "")
    except ValueError as error:
        raise UnusableAnswer("it names no IP address") from error


def read_country(said: object) -> str | None:
    """Two letters, in lower case; None for anything else."""
    plain = isinstance(said, str) and len(said) == 2 and said.isascii() and said.isalpha()
    return said.lower() if isinstance(said, str) and plain else None


def read_text(said: object) -> str | None:
    """A text that can be shown; None for anything else."""
    return said[:_TEXT_MAX] if isinstance(said, str) and said and said.isprintable() else None
