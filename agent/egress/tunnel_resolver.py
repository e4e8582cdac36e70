"""Name resolution through a tunnel by its own resolvers, because a kill switch blocks the host's."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult

from agent.config.option_parsing import is_ip_address
from agent.net import dns_client, host_lookup
from model.endpoint import Endpoint

TRIES = 2
"""Queries to every resolver, because packets may be lost."""
_TIMEOUT_S = 1.0


class TunnelResolver(AbstractResolver):
    """Resolves by /etc/hosts, else by the first of `resolvers` (IP addresses) that answers, queried by `interface`."""

    def __init__(self, resolvers: Sequence[str], interface: str | None) -> None:
        self._resolvers = resolvers
        self._interface = interface

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the host's addresses of this family. Raises OSError if there are none, or no resolver answers."""
        matching = [each for each in await self._look_up(host, family) if (":" in each) == (family == socket.AF_INET6)]
        if not matching:
            raise OSError(f"{host} has no address")
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
            for each in matching
        ]

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    async def _look_up(self, host: str, family: int) -> Sequence[str]:
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
                answer = await dns_client.query(host, kind, server, interface=self._interface, waits_s=(_TIMEOUT_S,))
            except dns_client.DnsError as error:
                reason = f"{resolver}: {error}"
            else:
                return answer.addresses
        raise OSError(f"{host} cannot be resolved: {reason}")
