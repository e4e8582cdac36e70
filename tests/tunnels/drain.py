"""Waiting until nothing goes by a tunnel any more, as an exit's agent does by its Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agent.net.ss import ss


async def wait_for_none_open(addresses: Iterable[str]) -> None:
    """Return when this namespace has no TCP connection from these addresses that is open or being made."""
    here = " or ".join(f"src [{each}]" if ":" in each else f"src {each}" for each in addresses)
    while await ss("state", "syn-sent", f"( {here} )"):  # noqa: ASYNC110  # the kernel tells nobody of their end
        await asyncio.sleep(0.02)
