"""The options of `exitplane agent` that say how an exit is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

from agent.config.option_parsing import BadSetting, read_address, read_url
from agent.config.settings import OBSERVE_EVERY_S
from agent.egress.whoami_dns import parse_zone

_NEED: Final = {
    "--observe": (
        *("--observe-every-s", "--geoip", "--locate", "--dns-zone", "--speed-url"),
        "an exit that nobody asks about is not looked at",
    ),
    "--dns-zone": ("--dns-allow", "without a zone nobody learns who resolves"),
    "--speed-url": ("--speed-upload-url", "--speed-every-s", "there is nothing to measure against"),
}
"""What each option needs beside it, and why: the last of each line."""


def read_observing(placed: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `agent.config.settings.Exit` that say how it is looked at. Raises BadSetting."""
    for needed, (*options, reason) in _NEED.items():
        for option in options:
            if placed.get(option) is not None and placed.get(needed) is None:
                raise BadSetting(f"{option} needs {needed}: {reason}", hint=f"add {needed}, or leave {option} out")
    if placed.get("--dns-zone") is not None and placed.get("--parent") is not None:
        raise BadSetting(
            "--dns-zone with --parent: names are resolved by the parent, which cannot be asked who does",
            hint="leave --dns-zone out",
        )
    every_s = placed.get("--observe-every-s")
    return {
        "sources": tuple(read_url("--observe", text) for text in placed.get("--observe") or ()),
        "host_addresses": frozenset(
            read_address("--host-address", text) for text in placed.get("--host-address") or ()
        ),
        "observe_every_s": OBSERVE_EVERY_S if every_s is None else every_s,
        "geoip": placed.get("--geoip"),
        "locate": _read(read_url, "--locate", placed),
        "dns_zone": _read(parse_zone, "--dns-zone", placed),
        "dns_allow": tuple(_read_network("--dns-allow", text) for text in placed.get("--dns-allow") or ()),
        "speed_url": _read(read_url, "--speed-url", placed),
        "speed_upload_url": _read(read_url, "--speed-upload-url", placed),
        "speed_every_s": placed.get("--speed-every-s"),
    }


def _read(reader: Any, option: str, placed: Mapping[str, Any]) -> Any:
    return None if placed.get(option) is None else reader(option, placed.get(option))


def _read_network(option: str, text: str) -> IPv4Network | IPv6Network:
    """Read a CIDR, or a single address. Raises BadSetting."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadSetting(f"{option} {text!r} is no network", hint="write 198.51.100.0/24 or 2001:db8::/32") from error
