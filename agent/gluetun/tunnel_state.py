"""The state of gluetun's tunnel, as gluetun reports it."""

from __future__ import annotations

from agent.gluetun.client import GluetunClient, GluetunError, GluetunStatus


async def check_gluetun(gluetun: GluetunClient) -> str | None:
    """Return what is wrong with gluetun's tunnel, or None: it must run, and gluetun must know its public address."""
    try:
        status = await gluetun.status()
        if status != GluetunStatus.RUNNING:
            return f"gluetun says that its tunnel is {status}"
        return None if await gluetun.public_ip() else "gluetun does not know its public address"
    except GluetunError as error:
        return error.message
