"""Names of servers, resolved without a word to anybody outside: from /etc/hosts, or by a resolver on loopback.

The kill switch is closed when this is asked, so no other resolver could answer. A container engine's resolver (Docker's
127.0.0.11) is on loopback, and knows the other containers.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from dns.rdatatype import RdataType

from agent.config.option_parsing import is_literal, plain_address
from agent.net import dns_client
from model.endpoint import Endpoint
from model.errors import ExitplaneError

HOSTS: Final = Path("/etc/hosts")
RESOLVERS: Final = Path("/etc/resolv.conf")
_WITHIN_S: Final = 3.0


class NameUnknown(ExitplaneError):
    """A name cannot be resolved without asking somebody outside the tunnel. `for_good`: nobody who may be asked will ever know."""

    code = "name_unknown"

    def __init__(self, message: str, *, hint: str, for_good: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.for_good = for_good


async def resolve(host: str) -> tuple[str, ...]:
    """The addresses of a host; of an address, itself. Raises NameUnknown."""
    if is_literal(host):
        return (plain_address(host),)
    found = tuple(dict.fromkeys(hosts_entries(read(HOSTS), host)))
    if found:
        return found
    hint = f"write its address instead of its name, or add it to {HOSTS}"
    resolvers = list(loopback_resolvers(read(RESOLVERS)))
    if not resolvers:
        what = f"{host!r} is not in {HOSTS}, and a resolver outside must not be asked"
        raise NameUnknown(what, hint=hint, for_good=True)
    addresses = [each for kind in (dns_client.A, dns_client.AAAA) for each in await _ask(resolvers[0], host, kind)]
    if not addresses:
        raise NameUnknown(f"{host!r} is not known to {HOSTS} nor to the resolver {resolvers[0]}", hint=hint)
    return tuple(dict.fromkeys(addresses))


def hosts_entries(text: str, host: str) -> Iterator[str]:
    """The addresses of a host in a hosts(5) file."""
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if host.rstrip(".").lower() in (name.lower() for name in names) and is_literal(address):
            yield plain_address(address)


def loopback_resolvers(text: str) -> Iterator[str]:
    """The resolvers of a resolv.conf(5) that are on loopback."""
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_] if is_literal(address) and ip_address(address).is_loopback:
                yield address


async def _ask(resolver: str, host: str, kind: RdataType) -> tuple[str, ...]:
    try:
        answer = await dns_client.query(host, kind, Endpoint(resolver, dns_client.PORT), waits_s=(_WITHIN_S,))
    except dns_client.DnsError:
        return ()
    return answer.addresses


def read(path: Path) -> str:
    """What such a file holds; one that is not there holds nothing."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
