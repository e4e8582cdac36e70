"""Whether gluetun's tunnel is up, as gluetun itself says it."""

from __future__ import annotations

from agent.gluetun.client import Gluetun, GluetunError, Status


async def gluetun_trouble(gluetun: Gluetun) -> str | None:
    """What is wrong with gluetun's tunnel: it must run, and be known to come out somewhere."""
    try:
        status = await gluetun.status()
        if status != Status.RUNNING:
            return f"gluetun says that its tunnel is {status}"
        return None if await gluetun.public_ip() else "gluetun does not know its public address"
    except GluetunError as error:
        return error.message
