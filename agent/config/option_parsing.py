"""Parsers for the values of options: addresses, endpoints, URLs and localities."""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path

from yarl import URL

from model.endpoint import Endpoint, parse_endpoint
from model.errors import ExitplaneError
from model.locality import Locality


class BadSetting(ExitplaneError):
    """An option has a value that cannot be used. The message names both."""

    code = "bad_setting"


def read_endpoint(option: str, text: str) -> Endpoint:
    """Read `host:port` or `[ipv6]:port`. Raises BadSetting, which names `option`."""
    try:
        return parse_endpoint(text)
    except ValueError as error:
        raise BadSetting(f"{option} {error}", hint="write example.net:18000 or [2001:db8::1]:18000") from error


def read_listen_address(option: str, text: str) -> Endpoint:
    """Read the IP address and port of a listener. Raises BadSetting, which names `option`."""
    endpoint = read_endpoint(option, text)
    check_address(option, endpoint.host)
    return endpoint


def check_address(option: str, text: str | None) -> str | None:
    """Return `text` if it is an IP address or None. Raises BadSetting, which names `option`."""
    if text is not None and not is_ip_address(text):
        raise BadSetting(f"{option} {text!r} is not an IP address", hint="write an address, not a name")
    return text


def canonical_address(text: str) -> str:
    """Return the canonical form of an IP address, in which addresses are compared. Raises ValueError."""
    address = ip_address(text)
    return str(getattr(address, "ipv4_mapped", None) or address)


def read_address(option: str, text: str) -> str:
    """Read an IP address, in its canonical form. Raises BadSetting, which names `option`."""
    check_address(option, text)
    return canonical_address(text)


def read_url(option: str, text: str) -> URL:
    """Read the URL of an HTTP service. Raises BadSetting, which names `option`."""
    bad = BadSetting(f"{option} {text!r} is no URL of a service", hint="write http://host:port or https://host")
    try:
        url = URL(text)
        port = url.port
    except ValueError as error:
        raise bad from error
    if url.scheme not in {"http", "https"} or not url.host or not port or url.user:
        raise bad
    return url


def parse_api(text: str) -> URL:
    """Read the value of `--api`. Raises BadSetting."""
    url = read_url("--api", text)
    if url.query:
        raise BadSetting(f"--api {text!r} is not the URL of an API", hint="leave out what follows the ?")
    return url


def read_authority(option: str, path: Path) -> str:
    """Read the file of an authority, in PEM. Raises BadSetting, which names `option`."""
    hint = "name the output of `exitplane ca`"
    try:
        text = path.read_text()
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise BadSetting(f"{option} {path} cannot be used (it holds no certificate)", hint=hint) from error
    except OSError as error:
        raise BadSetting(f"{option} {path} cannot be used ({error.strerror})", hint=hint) from error
    return text


def read_locality(option: str, text: str) -> Locality:
    """Read `region` or `region/zone`. Raises BadSetting, which names `option`."""
    try:
        return Locality.parse(text)
    except ValueError as error:
        hint = "write eu-west or eu-west/a: each part 1 to 63 of a-z, 0-9 and -"
        raise BadSetting(f"{option} {error}", hint=hint) from error


def is_ip_address(host: str) -> bool:
    """Return True if `host` is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
