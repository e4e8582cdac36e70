"""Whether gluetun's tunnel is up, as gluetun itself says it."""

from __future__ import annotations

from agent.gluetun.client import GluetunClient, GluetunError, GluetunStatus


async def gluetun_trouble(gluetun: GluetunClient) -> str | None:
    """What is wrong with gluetun's tunnel: it must run, and be known to come out somewhere."""
    try:
        status = await gluetun.status()
        if status != GluetunStatus.RUNNING:
            return f"gluetun says that its tunnel is {status}"
        return None if await gluetun.public_ip() else "gluetun does not know its public address"
    except GluetunError as error:
        return error.message
