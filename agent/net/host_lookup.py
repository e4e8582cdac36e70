"""Resolution of the tunnel's and the control plane's host names, by /etc/hosts or a resolver on loopback alone.

The kill switch is closed at that time, so no other resolver could answer. The resolver of a container engine (Docker's
127.0.0.11) is on loopback, and knows the other containers.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from dns.rdatatype import RdataType

from agent.config.option_parsing import canonical_address, is_ip_address
from agent.net import dns_client
from model.endpoint import Endpoint
from model.errors import ExitplaneError

HOSTS: Final = Path("/etc/hosts")
RESOLVERS: Final = Path("/etc/resolv.conf")
_WITHIN_S: Final = 3.0


class UnknownHost(ExitplaneError):
    """A name that nobody inside the namespace can resolve. `permanent` is True if a later attempt cannot succeed either."""

    code = "unknown_host"

    def __init__(self, message: str, *, hint: str, permanent: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.permanent = permanent


async def resolve(host: str) -> tuple[str, ...]:
    """Return the addresses of a host; an address resolves to itself. Raises UnknownHost."""
    if is_ip_address(host):
        return (canonical_address(host),)
    found = tuple(dict.fromkeys(hosts_entries(read(HOSTS), host)))
    if found:
        return found
    hint = f"write its address instead of its name, or add it to {HOSTS}"
    resolvers = list(loopback_resolvers(read(RESOLVERS)))
    if not resolvers:
        what = f"{host!r} is not in {HOSTS}, and a resolver outside must not be asked"
        raise UnknownHost(what, hint=hint, permanent=True)
    addresses = [each for kind in (dns_client.A, dns_client.AAAA) for each in await _ask(resolvers[0], host, kind)]
    if not addresses:
        raise UnknownHost(f"{host!r} is not known to {HOSTS} nor to the resolver {resolvers[0]}", hint=hint)
    return tuple(dict.fromkeys(addresses))


def hosts_entries(text: str, host: str) -> Iterator[str]:
    """Yield the addresses of a host in the text of a hosts(5) file."""
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if host.rstrip(".").lower() in (name.lower() for name in names) and is_ip_address(address):
            yield canonical_address(address)


def loopback_resolvers(text: str) -> Iterator[str]:
    """Yield the resolvers in the text of a resolv.conf(5) that are on loopback."""
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_] if is_ip_address(address) and ip_address(address).is_loopback:
                yield address


async def _ask(resolver: str, host: str, kind: RdataType) -> tuple[str, ...]:
    try:
        answer = await dns_client.query(host, kind, Endpoint(resolver, dns_client.PORT), waits_s=(_WITHIN_S,))
    except dns_client.DnsError:
        return ()
    return answer.addresses


def read(path: Path) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
