"""A drain that waits for the connections of a tunnel, as an agent waits for its Envoy's requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agent.net.ss import ss


async def wait_for_none_open(addresses: Iterable[str]) -> None:
    """Wait until no TCP connection from these addresses is open or being opened in this namespace."""
    here = " or ".join(f"src [{each}]" if ":" in each else f"src {each}" for each in addresses)
    while await ss("state", "syn-sent", f"( {here} )"):  # noqa: ASYNC110  # the kernel sends no event at their end
        await asyncio.sleep(0.02)
