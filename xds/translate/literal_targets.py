"""Where an exit with a parent does not go: what of a target can be told by its text.

The parent resolves names, so the exit cannot look at their addresses (forbidden_targets.py). It refuses literals of networks
around a host, in every way to write them, names that only such networks know, and what is neither a name nor an address.
Regular expressions of RE2, for the whole `:authority`.
"""

from __future__ import annotations

from typing import Final

_PORT: Final = r"(?::\d{1,5})?"
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_THIS_HOST_OR_AROUND: Final = (
    rf"(?:0|10|127)(?:\.{_OCTET}){{3}}",
    rf"100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])(?:\.{_OCTET}){{2}}",
    rf"169\.254(?:\.{_OCTET}){{2}}",
    rf"172\.(?:1[6-9]|2\d|3[01])(?:\.{_OCTET}){{2}}",
    rf"192\.168(?:\.{_OCTET}){{2}}",
    rf"(?:22[4-9]|2[3-5]\d)(?:\.{_OCTET}){{3}}",
)
_OF_NO_PUBLIC_NETWORK: Final = r"(?:[a-z0-9_-]+\.)+(?:localhost|localdomain|local|internal|lan|home\.arpa)\.?"
"""Special-use names (RFC 6761, 6762, 8375; `internal` by ICANN), and what home routers use."""

FORBIDDEN: Final = f"(?i)(?:{'|'.join((*_THIS_HOST_OR_AROUND, _OF_NO_PUBLIC_NETWORK))}){_PORT}"
"""Looked at first."""

_IPV4: Final = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_IPV6: Final = r"\[[23][0-9a-f]{3}:[0-9a-f:.]{1,40}\]"
"""Global unicast, 2000::/3, with all four digits of the first group: nothing else is written like that."""
_NAME: Final = r"(?:[a-z0-9_-]{1,63}\.)+[a-z][a-z0-9-]{0,62}\.?"
"""With a dot, for a single label is a host of some private network, and a last label that is no number: `0x7f.1`,
`2130706433` and `127.1` are addresses to some resolvers."""

ALLOWED: Final = f"(?i)(?:{_IPV4}|{_IPV6}|{_NAME}){_PORT}"
"""All else is refused too."""
