"""`host:port`, as options and replies write it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from model.errors import ExitplaneError


class BadSetting(ExitplaneError):
    """An option, its value and the mend, in one line."""

    code = "bad_setting"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host name or IP literal (IPv6 without brackets) and a port, 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(option: str, text: str) -> Endpoint:
    """Read `host:port` or `[ipv6]:port`. Raises BadSetting, which names `option`."""
    host, _, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    plain = name and (":" not in name or bracketed) and not set(name) & set(" /@[]")
    if not plain or not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65535:
        raise BadSetting(f"{option} {text!r} is not host:port", mend="write example.net:18000 or [2001:db8::1]:18000")
    return Endpoint(name, int(port))


def check_address(option: str, text: str | None) -> str | None:
    """`text`, if it is an IP literal or None. Raises BadSetting, which names `option`."""
    if text is not None and not is_literal(text):
        raise BadSetting(f"{option} {text!r} is not an IP address", mend="write an address, not a name")
    return text


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
