"""Verification of a tunnel that carries no clients yet, by sockets that are bound to its interface."""

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

VERIFIED_WITHIN_S: Final = 30.0
"""The time that resolvers, probe and sources have to answer through the tunnel."""
_RETRY_S: Final = 0.5
_OLD_STAYS: Final = "the old server stays"
_CHECK_FILES: Final = f"{_OLD_STAYS}; see that the files of --tunnel are of servers in the pool's country"

Look = Callable[[ExitSettings], Awaitable[Observation]]
"""Observes where an exit comes out whose `tunnel_interface` and `resolvers` are the new tunnel's."""


async def verify(exit_: ExitSettings, country: str | None, look: Look | None) -> Observation | None:
    """Check a tunnel until it works, and return the observation, None without `look`.

    The address must be in `country`, unless that is None. Raises TunnelFailed for a tunnel that does not work in time, leaks, or comes
    out elsewhere.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + VERIFIED_WITHIN_S
    while True:
        observation, failure = None, await _check_answers(exit_)
        if failure is None and look is not None:
            observation = await look(exit_)
            failure = observation.error or None
            _refuse_unfit(observation, country)
        if failure is None:
            return observation
        if loop.time() + _RETRY_S >= deadline_s:
            raise TunnelFailed(f"it is not verified after {VERIFIED_WITHIN_S:g} s: {failure}", hint=_OLD_STAYS)
        await asyncio.sleep(_RETRY_S)


async def _check_answers(exit_: ExitSettings) -> str | None:
    """Return what does not answer through the tunnel, or None."""
    for resolver in exit_.resolvers:
        if await resolver_answers(resolver, exit_.tunnel_interface):
            break
    else:
        return unanswered(exit_.resolvers[0])
    return None if exit_.probe is None else await check_target(exit_.probe, exit_.tunnel_interface, None)


def _refuse_unfit(observation: Observation, country: str | None) -> None:
    """Raise TunnelFailed for an observation that another look would not change."""
    if observation.leak:
        raise TunnelFailed(f"it leaks: {observation.leak}", hint=_OLD_STAYS)
    if country is not None and observation.country not in {None, country}:
        what = f"its address {observation.address} is in {observation.country}, and its pool is for {country}"
        raise TunnelFailed(what, hint=_CHECK_FILES)


def with_tunnel(exit_: ExitSettings, interface: str, resolvers: tuple[str, ...]) -> ExitSettings:
    """Return the exit's settings with another tunnel's interface and resolvers."""
    return replace(exit_, tunnel_interface=interface, resolvers=resolvers)
