"""The types of fields that several schemas share, each with validation errors that carry a hint."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.http.validators import bad_value
from model import locality
from model.locality import LOCALITY_PATTERN

NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(NAME_PATTERN)
_USER_NAME = re.compile(r"[a-z0-9]([a-z0-9_.]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_HOST_NAME_MAX = 253
_ALIASES = {"uk": "gb"}
"""Codes that ISO 3166 reserves for a country that has another code."""


class RequestModel(BaseModel):
    """A request body. It takes the declared fields only, and converts no types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResponseModel(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    @classmethod
    def of(cls, row: Any, **more: Any) -> Self:
        """Make the model from the attributes of a row, and from `more` for those that are not stored."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields if name not in more}, **more)


def absent() -> Any:
    """Make the default of a field that a PATCH may leave out. `model_fields_set` tells if it was sent, also as null."""
    return None


def as_id(text: str) -> UUID | None:
    """Parse a UUID in its usual form; None for any other text."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None


def as_reference(text: str) -> str | None:
    """Normalise a name or an id for the repositories; None for a text that is neither."""
    parsed = as_id(text)
    if parsed is not None:
        return str(parsed)
    return text if _NAME.fullmatch(text) else None


def _check_name(value: str) -> str:
    hint = "use 1 to 63 lower-case letters, digits and inner hyphens"
    if not _NAME.fullmatch(value):
        raise bad_value("bad_name", "this is not a name", hint)
    try:
        UUID(value)
    except ValueError:
        return value
    raise bad_value("bad_name", "a name must not look like an id", hint + ", and not 32 hexadecimal digits")


def _check_reference(value: str) -> str:
    found = as_reference(value)
    if found is None:
        raise bad_value("bad_reference", "this is neither a name nor an id", "send a name or an id")
    return found


@cache
def _country_codes() -> frozenset[str]:
    # imported at the first check of a country: the import takes longer than the rest of this module
    import pycountry  # noqa: PLC0415

    return frozenset(country.alpha_2.lower() for country in pycountry.countries)


def _check_country(value: str) -> str:
    code = value.lower()
    code = _ALIASES.get(code, code)
    if code not in _country_codes():
        hint = "use an ISO 3166-1 alpha-2 code, for example us, gb or jp"
        raise bad_value("bad_country", "this is not a country code of ISO 3166-1", hint)
    return code


def _parse_ip(value: str) -> IPv4Address | IPv6Address:
    try:
        # a zone is only meaningful on one host
        return ip_address(value if "%" not in value else "")
    except ValueError as error:
        hint = "send an IPv4 or IPv6 address without a port or a zone"
        raise bad_value("bad_address", "this is not an IP address", hint) from error


def _check_ip(value: str) -> str:
    return str(_parse_ip(value))


def _check_source(value: str) -> str:
    address = _parse_ip(value)
    if address.is_unspecified or address.is_multicast:
        raise bad_value("bad_address", "no host can send from this address", "send an address of the exit's host")
    return str(address)


def _parse_time(value: object) -> datetime:
    hint = "send a time with its time zone, for example 2027-01-01T00:00:00Z"
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        if time is None or time.tzinfo is None:
            raise bad_value("bad_time", "this is not a time with a time zone", hint)
        return time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise bad_value("bad_time", "this is not a time with a time zone", hint) from error


def _check_loopback(value: str) -> str:
    address = _parse_ip(value)
    if not address.is_loopback:
        raise bad_value(
            "not_loopback",
            "a listener that does not authenticate its clients binds to loopback only",
            "use 127.0.0.1 or ::1, and change the listener to one with authentication once the fleet has users",
        )
    return str(address)


def _check_host(value: str) -> str:
    try:
        address = ip_address(value)
    except ValueError:
        return _check_host_name(value)
    if "%" in value or address.is_unspecified or address.is_multicast:
        hint = "send a unicast IP address without a zone, or a host name"
        raise bad_value("bad_host", "gateways cannot dial this address", hint)
    return str(address)


def _check_host_name(value: str) -> str:
    labels = value.lower().split(".")
    # RFC 1123, section 2.1: a name with a numeric last label would be taken for an address
    if len(value) > _HOST_NAME_MAX or labels[-1].isdigit() or not all(map(_LABEL.fullmatch, labels)):
        hint = "send an IP address or a host name such as exit-1.example.net (other alphabets as xn--)"
        raise bad_value("bad_host", "this is neither an IP address nor a host name", hint)
    return value.lower()


def _check_locality(value: str) -> str:
    try:
        return str(locality.Locality.parse(value))
    except ValueError as error:
        hint = "send a region, or region/zone, each of 1 to 63 lower-case letters, digits and hyphens"
        raise bad_value("bad_locality", "this is not a locality", hint) from error


def _check_city(value: str) -> str:
    plain = unicodedata.normalize("NFKD", value).lower()
    city = "".join(character for character in plain if character.isascii() and character.isalnum())
    if not city:
        raise bad_value("bad_city", "this is not a city", "send its name with Latin letters, for example berlin")
    return city


def _check_user_name(value: str) -> str:
    if not _USER_NAME.fullmatch(value):
        hint = "use 1 to 63 lower-case letters, digits, _ and . (a - begins the options after a name, as in alice-country-de)"
        raise bad_value("bad_user_name", "this is not a user name", hint)
    return value


def _check_server_name(value: str) -> str:
    try:
        ip_address(value)
    except ValueError:
        return _check_host_name(value)
    raise bad_value("bad_server_name", "a TLS server name is not an address", "send a host name")


def check_certificate_host(value: str) -> str:
    """Check a name of a certificate: a host name, `*.` before one, or an IP address. Raises the error of a validator."""
    if value.startswith("*."):
        return f"*.{_check_server_name(value.removeprefix('*.'))}"
    return _check_host(value)


def _check_domain(value: str) -> str:
    return _check_host_name(value.removeprefix("*").removeprefix("."))


def _check_network(value: str) -> str:
    try:
        return str(ip_network(value if "%" not in value else "", strict=True))
    except ValueError as error:
        hint = "send CIDR whose host bits are zero, for example 192.0.2.0/24 or 2001:db8::/32"
        raise bad_value("bad_network", "this is not a network", hint) from error


def _check_ports(value: str) -> str:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", value, re.ASCII)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high <= 65535:
        raise bad_value("bad_ports", "this is neither a port nor a range of ports", "send 443 or 8000-8999")
    return f"{low}-{high}" if low < high else str(low)


def _check_time_of_day(value: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d|24:00", value, re.ASCII):
        raise bad_value("bad_time", "this is not a time of day", "send hours and minutes in UTC, for example 09:30")
    return value


def _check_text(value: str) -> str:
    # PostgreSQL stores no NUL in text; other control characters would mislead readers
    if _CONTROLS.search(value):
        raise bad_value("bad_text", "this contains control characters", "send printable text")
    return value


def _described(kind: str, example: str, **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": kind, "examples": [example], **more})


Name = Annotated[str, AfterValidator(_check_name), _described("A name", "us-1", pattern=f"^{NAME_PATTERN}$")]
Reference = Annotated[str, AfterValidator(_check_reference), _described("A name or an id", "demo")]
Country = Annotated[
    str,
    AfterValidator(_check_country),
    _described("ISO 3166-1 alpha-2, or `uk` for `gb`", "us", pattern="^[A-Za-z]{2}$"),
]
Moment = Annotated[
    datetime,
    BeforeValidator(_parse_time),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2999-01-01T00:00:00Z"]}),
]
Port = Annotated[int, Field(ge=1, le=65535, strict=True, examples=[8443])]
IpAddress = Annotated[str, AfterValidator(_check_ip), _described("An IP address", "0.0.0.0")]  # noqa: S104 - an example
SourceAddress = Annotated[str, AfterValidator(_check_source), _described("An IP address to send from", "192.0.2.10")]
LoopbackAddress = Annotated[str, AfterValidator(_check_loopback), _described("A loopback address", "127.0.0.1")]
Host = Annotated[str, AfterValidator(_check_host), _described("An IP address or a host name", "198.51.100.7")]
Locality = Annotated[
    str,
    AfterValidator(_check_locality),
    _described("A region, or a region and a zone", "eu-west/a", pattern=f"^{LOCALITY_PATTERN}$"),
]
City = Annotated[
    str,
    Field(max_length=100),
    AfterValidator(_check_city),
    _described("A city. Case, spaces and accents do not matter", "berlin", maxLength=100),
]
UserName = Annotated[str, AfterValidator(_check_user_name), _described("A user name", "alice")]
ServerName = Annotated[str, AfterValidator(_check_server_name), _described("A host name", "de.gateway.example")]
Domain = Annotated[str, AfterValidator(_check_domain), _described("A domain, with all domains below it", "example.com")]
Network = Annotated[str, AfterValidator(_check_network), _described("CIDR", "192.0.2.0/24")]
Ports = Annotated[str, AfterValidator(_check_ports), _described("A port, or a range of ports", "8000-8999")]
TimeOfDay = Annotated[str, AfterValidator(_check_time_of_day), _described("Hours and minutes, in UTC", "09:30")]
Text = Annotated[str, AfterValidator(_check_text)]
