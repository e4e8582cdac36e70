"""Names of what is asked through a tunnel, by the tunnel's own resolvers: a kill switch lets nobody ask the host's."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult

from agent.config.option_parsing import is_ip_address
from agent.net import dns_client, host_lookup
from model.endpoint import Endpoint

TRIES = 2
"""Of every resolver: a question or its answer may be lost."""
_WITHIN_S = 1.0


class TunnelResolver(AbstractResolver):
    """What /etc/hosts says, else what the first of `resolvers` (IP addresses) says that answers, asked by `interface`."""

    def __init__(self, resolvers: Sequence[str], interface: str | None) -> None:
        self._resolvers = resolvers
        self._interface = interface

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host that are of this family. Raises OSError when there are none, or nobody answers."""
        fit = [each for each in await self._addresses(host, family) if (":" in each) == (family == socket.AF_INET6)]
        if not fit:
            raise OSError(f"{host} has no address")
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for each in fit
        ]

    async def close(self) -> None:
        """Nothing is held."""

    async def _addresses(self, host: str, family: int) -> Sequence[str]:
        known = (
            [host]
            if is_ip_address(host)
            else list(host_lookup.hosts_entries(host_lookup.read(host_lookup.HOSTS), host))
        )
        if known:
            return known
        kind = dns_client.AAAA if family == socket.AF_INET6 else dns_client.A
        reason = "there is no resolver"
        for resolver in [*self._resolvers] * TRIES:
            server = Endpoint(resolver, dns_client.PORT)
            try:
                answer = await dns_client.query(host, kind, server, interface=self._interface, waits_s=(_WITHIN_S,))
            except dns_client.DnsError as error:
                reason = f"{resolver}: {error}"
            else:
                return answer.addresses
        raise OSError(f"{host} is not known: {reason}")
