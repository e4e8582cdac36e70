"""Rotation of an exit behind gluetun to another server, in the same country or in another."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from agent.gluetun.client import GluetunClient, GluetunError, GluetunStatus, KeyRefused
from agent.gluetun.countries import full_name
from model.errors import ExitplaneError

log = structlog.get_logger()

WITHIN_S: Final = 90.0
_POLL_S: Final = 0.5


class NotRotated(ExitplaneError):
    """gluetun has no other address in time. Its tunnel was started again."""

    code = "not_rotated"


async def rotate(
    gluetun: GluetunClient, country: str | None = None, *, within_s: float = WITHIN_S, poll_s: float = _POLL_S
) -> str:
    """Have gluetun take another server, and return its new public address.

    `country` is two letters, or the provider's name of the country. Without it the tunnel is stopped and started, for another server
    of the same selection. Raises NotRotated, KeyRefused and UnknownCountry.
    """
    name = None if country is None else full_name(country)
    try:
        async with asyncio.timeout(within_s):
            before = await _address(gluetun)
            if name is None:
                await gluetun.set_status(GluetunStatus.STOPPED)
                await _start(gluetun, poll_s)
            else:
                await gluetun.choose_country(name)
            address = await _await_new_address(gluetun, before, poll_s)
    except TimeoutError as error:
        hint = "see gluetun's log; its provider may have one server only"
        raise NotRotated(f"gluetun has no other address after {within_s:g} s", hint=hint) from error
    except KeyRefused:
        raise
    except GluetunError as error:
        raise NotRotated(f"gluetun took no other server: {error.message}", hint=error.hint) from error
    log.info("gluetun.rotated", before=before, address=address, country=name)
    return address


async def _address(gluetun: GluetunClient) -> str | None:
    """Return the public address, or None if the tunnel is down or gluetun does not know it."""
    known = await gluetun.public_ip() if await gluetun.status() == GluetunStatus.RUNNING else None
    return known.address if known else None


async def _start(gluetun: GluetunClient, poll_s: float) -> None:
    """Start the tunnel, and try again until gluetun accepts it: a tunnel that was stopped here must not stay down."""
    while True:
        try:
            await gluetun.set_status(GluetunStatus.RUNNING)
        except KeyRefused:
            raise
        except GluetunError as error:
            log.warning("gluetun.start_failed", reason=error.message)
            await asyncio.sleep(poll_s)
        else:
            return


async def _await_new_address(gluetun: GluetunClient, before: str | None, poll_s: float) -> str:
    while True:
        try:
            found = await _address(gluetun)
        except KeyRefused:
            raise
        except GluetunError:
            found = None  # gluetun may not answer while its tunnel restarts
        if found is not None and found != before:
            return found
        await asyncio.sleep(poll_s)
