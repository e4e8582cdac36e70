"""Another address for an exit behind gluetun: another server, in the same country or in another."""

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
    """gluetun did not come out elsewhere in time. Its tunnel was told to run."""

    code = "not_rotated"


async def rotate(
    gluetun: GluetunClient, country: str | None = None, *, within_s: float = WITHIN_S, poll_s: float = _POLL_S
) -> str:
    """Have gluetun come out at another address, and give that: of `country`, by two letters or the provider's name for it.

    Without one the tunnel is stopped and started, for another server of the same choice. Raises NotRotated, KeyRefused,
    UnknownCountry.
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
            found = await _until_elsewhere(gluetun, before, poll_s)
    except TimeoutError as error:
        hint = "see gluetun's log; its provider may have one server only"
        raise NotRotated(f"gluetun has no other address after {within_s:g} s", hint=hint) from error
    except KeyRefused:
        raise
    except GluetunError as error:
        raise NotRotated(f"gluetun was not told to move: {error.message}", hint=error.hint) from error
    log.info("gluetun.rotated", before=before, address=found, country=name)
    return found


async def _address(gluetun: GluetunClient) -> str | None:
    """Where it comes out; None when the tunnel is down, or does not know."""
    known = await gluetun.public_ip() if await gluetun.status() == GluetunStatus.RUNNING else None
    return known.address if known else None


async def _start(gluetun: GluetunClient, poll_s: float) -> None:
    """Until it was told: whatever happens, a tunnel that was stopped here is started again."""
    while True:
        try:
            await gluetun.set_status(GluetunStatus.RUNNING)
        except KeyRefused:
            raise
        except GluetunError as error:
            log.warning("gluetun.not_started_yet", reason=error.message)
            await asyncio.sleep(poll_s)
        else:
            return


async def _until_elsewhere(gluetun: GluetunClient, before: str | None, poll_s: float) -> str:
    while True:
        try:
            found = await _address(gluetun)
        except KeyRefused:
            raise
        except GluetunError:
            found = None  # while its tunnel is made anew it may be silent
        if found is not None and found != before:
            return found
        await asyncio.sleep(poll_s)
