"""Looking through a tunnel that carries no clients yet: bound to its interface, so that nothing goes by another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from agent.config.settings import ExitSettings
from agent.config.status import Observation
from agent.vpn.errors import TunnelFailed
from agent.vpn.resolver_probe import resolver_answers, unanswered
from agent.vpn.tunnel_health import check_target

WITHIN_S: Final = 30.0
"""How long it may take until everything that is asked through it answers."""
_AGAIN_S: Final = 0.5
_STAYS: Final = "the old server stays; see that the files of --tunnel are of servers in the pool's country"

Look = Callable[[ExitSettings], Awaitable[Observation]]
"""Where an exit comes out whose `tunnel_interface` and `resolvers` are the new tunnel's."""


async def verify(exit_: ExitSettings, country: str | None, look: Look | None) -> Observation | None:
    """What was seen through the tunnel, None where nobody looks; `country` is the only one that will do. Raises TunnelFailed for a tunnel of no use, or elsewhere."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + WITHIN_S
    while True:
        seen, trouble = None, await _mute(exit_)
        if trouble is None and look is not None:
            seen = await look(exit_)
            trouble = seen.trouble or None
            _judge(seen, country)
        if trouble is None:
            return seen
        if loop.time() + _AGAIN_S >= deadline_s:
            raise TunnelFailed(f"it is not verified after {WITHIN_S:g} s: {trouble}", hint="the old server stays")
        await asyncio.sleep(_AGAIN_S)


async def _mute(exit_: ExitSettings) -> str | None:
    """What does not answer through the tunnel."""
    for resolver in exit_.resolvers:
        if await resolver_answers(resolver, exit_.tunnel_interface):
            break
    else:
        return unanswered(exit_.resolvers[0])
    return None if exit_.probe is None else await check_target(exit_.probe, exit_.tunnel_interface, None)


def _judge(seen: Observation, country: str | None) -> None:
    """Raises TunnelFailed for what no further look would change."""
    if seen.leak:
        raise TunnelFailed(f"it leaks: {seen.leak}", hint="the old server stays")
    if country is not None and seen.country not in {None, country}:
        raise TunnelFailed(
            f"its address {seen.address} is in {seen.country}, and its pool is for {country}", hint=_STAYS
        )


def with_tunnel(exit_: ExitSettings, interface: str, resolvers: tuple[str, ...]) -> ExitSettings:
    """The exit as it would be by another tunnel."""
    return replace(exit_, tunnel_interface=interface, resolvers=resolvers)
