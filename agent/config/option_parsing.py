"""Addresses and places as options write them."""

from __future__ import annotations

from ipaddress import ip_address

from yarl import URL

from model.endpoint import Endpoint, parse_endpoint
from model.errors import ExitplaneError
from model.locality import Locality


class BadSetting(ExitplaneError):
    """An option, its value and the hint, in one line."""

    code = "bad_setting"


def read_endpoint(option: str, text: str) -> Endpoint:
    """Read `host:port` or `[ipv6]:port`. Raises BadSetting, which names `option`."""
    try:
        return parse_endpoint(text)
    except ValueError as error:
        raise BadSetting(f"{option} {error}", hint="write example.net:18000 or [2001:db8::1]:18000") from error


def check_address(option: str, text: str | None) -> str | None:
    """`text`, if it is an IP literal or None. Raises BadSetting, which names `option`."""
    if text is not None and not is_literal(text):
        raise BadSetting(f"{option} {text!r} is not an IP address", hint="write an address, not a name")
    return text


def plain_address(text: str) -> str:
    """An IP address in the one form that it is compared in. Raises ValueError."""
    address = ip_address(text)
    return str(getattr(address, "ipv4_mapped", None) or address)


def read_address(option: str, text: str) -> str:
    """Read an IP address, in its one form. Raises BadSetting, which names `option`."""
    check_address(option, text)
    return plain_address(text)


def read_url(option: str, text: str) -> URL:
    """Read the URL of an HTTP service. Raises BadSetting, which names `option`."""
    refusal = BadSetting(f"{option} {text!r} is no URL of a service", hint="write http://host:port or https://host")
    try:
        url = URL(text)
        port = url.port
    except ValueError as error:
        raise refusal from error
    if url.scheme not in {"http", "https"} or not url.host or not port or url.user:
        raise refusal
    return url


def parse_api(text: str) -> URL:
    """Read the value of `--api`. Raises BadSetting."""
    url = read_url("--api", text)
    if url.query:
        raise BadSetting(f"--api {text!r} is not the URL of an API", hint="leave out what follows the ?")
    return url


def read_locality(option: str, text: str) -> Locality:
    """Read `region` or `region/zone`. Raises BadSetting, which names `option`."""
    try:
        return Locality.parse(text)
    except ValueError as error:
        hint = "write eu-west or eu-west/a: each part 1 to 63 of a-z, 0-9 and -"
        raise BadSetting(f"{option} {error}", hint=hint) from error


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
