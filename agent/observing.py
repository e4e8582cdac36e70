"""Where an exit's traffic comes out: asked, through the tunnel, of services that tell a caller its own address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Final

import aiohttp
import structlog
from yarl import URL

from agent.endpoints import plain_address
from agent.parent import Parent, request_options
from agent.report import Board, Observation, State, wait
from agent.settings import Exit
from agent.tunnel import socket_through

log = structlog.get_logger()

EVERY_S: Final = 60.0
AGAIN_S: Final = 5.0
"""After none of the sources said anything of use."""
BODY_MAX: Final = 65_536
NOT_YET: Final = Observation(trouble="its address is not known yet")
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5, connect=3)
_TEXT_MAX: Final = 100
_TOLD_MAX: Final = 500
"""What the control plane takes of one sentence: a heartbeat that it refuses would be silence."""


class Useless(Exception):
    """What a source said is of no use; why, in words that stay the same while it is."""


def read_answer(body: bytes) -> Observation:
    """What a source says, in ipinfo's format (`ip`, `country`) or ip-api's (`query`, `countryCode`). Raises Useless."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Useless("it answers what is no JSON") from error
    if not isinstance(said, dict):
        raise Useless("it answers no JSON object")
    if said.get("status", "success") != "success":
        raise Useless(f"it failed: {_text(said.get('message')) or 'it does not say why'}")
    address, country = said.get("ip", said.get("query")), said.get("countryCode", said.get("country"))
    try:
        address = plain_address(address if isinstance(address, str) else "")
    except ValueError as error:
        raise Useless("it names no IP address") from error
    if not isinstance(country, str) or not (len(country) == 2 and country.isascii() and country.isalpha()):
        raise Useless("it names no country by two letters")
    return Observation(
        address=address,
        country=country.lower(),
        city=_text(said.get("city")),
        network=_text(said.get("org", said.get("isp"))),
        time_zone=_text(said.get("timezone")),
    )


def _text(value: object) -> str | None:
    return value[:_TEXT_MAX] if isinstance(value, str) and value and value.isprintable() else None


def combine(seen: Sequence[tuple[str, Observation | str]], host_addresses: frozenset[str]) -> Observation:
    """What all sources together say: each by its name, with what it saw or why that is of no use.

    The first one's word counts. Where another names another country or address, that is told, not hidden: an address that is the
    host's own is a leak, whoever saw it.
    """
    found = [(name, each) for name, each in seen if isinstance(each, Observation)]
    if not found:
        return Observation(trouble="; ".join(f"{name}: {why}" for name, why in seen)[:_TOLD_MAX])
    first_name, first = found[0]
    others = [
        f"{first_name} sees {first.address} in {first.country}, {name} sees {each.address} in {each.country}"
        for name, each in found[1:]
        if (each.address, each.country) != (first.address, first.country)
    ]
    leaks = sorted(each.address for _, each in found if each.address in host_addresses)
    leak = f"its traffic leaves from the host's own address {leaks[0]}" if leaks else ""
    return replace(first, disagreement="; ".join(others)[:_TOLD_MAX], leak=leak)


class Observer:
    """Keeps the board's observation, as long as the tunnel is up. From when there is one, nothing is known yet."""

    def __init__(self, exit_: Exit, board: Board, *, every_s: float = EVERY_S, again_s: float = AGAIN_S) -> None:
        self._exit = exit_
        self._board = board
        self._every_s = every_s
        self._again_s = again_s
        board.update(observation=NOT_YET)

    async def run(self) -> None:
        """Look when the tunnel comes up and from then on from time to time, until cancelled."""
        while True:
            changed = self._board.changed
            if self._board.report.tunnel is State.DOWN:
                # what was seen through the tunnel before says nothing of the one that comes
                self._board.update(observation=NOT_YET)
                await changed.wait()
                continue
            observation = await self.look()
            if self._board.report.tunnel is State.UP:
                self._tell(observation)
            await self._rest(self._again_s if observation.trouble else self._every_s)

    async def look(self) -> Observation:
        """Ask all sources once."""
        async with aiohttp.ClientSession(connector=self._connector(), timeout=_TIMEOUT) as session:
            answers = await asyncio.gather(*(_ask(session, source, self._exit.parent) for source in self._exit.sources))
        names = [str(source.host) for source in self._exit.sources]
        return combine([*zip(names, answers, strict=True)], self._exit.host_addresses)

    def _tell(self, observation: Observation) -> None:
        before = self._board.report.observation
        if observation.trouble and before is not None and before.country is not None:
            log.warning("observation.failed", reason=observation.trouble)
            return  # the tunnel has been up since: what was seen still holds
        if observation != before:
            log.info("observation", **{name: value for name, value in asdict(observation).items() if value})
        self._board.update(observation=observation)

    async def _rest(self, seconds: float) -> None:
        """For so long, unless the tunnel goes down."""
        deadline = asyncio.get_running_loop().time() + seconds
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            changed = self._board.changed
            if self._board.report.tunnel is State.DOWN:
                return
            await wait(changed, left)

    def _connector(self) -> aiohttp.TCPConnector:
        if self._exit.parent is not None:
            return aiohttp.TCPConnector(
                force_close=True
            )  # what is dialled is the parent, which need not be in the tunnel
        way = self._exit.tunnel_interface, self._exit.egress_address
        return aiohttp.TCPConnector(force_close=True, socket_factory=lambda place: socket_through(*way, place[0]))


async def _ask(session: aiohttp.ClientSession, source: URL, parent: Parent | None = None) -> Observation | str:
    """What a source saw, or why that is of no use."""
    through = request_options(parent, source)
    headers = {"Accept": "application/json", **through.pop("headers", {})}
    try:
        async with session.get(source, headers=headers, allow_redirects=False, **through) as response:
            if response.status != 200:
                return f"it answers {response.status}"
            body = await response.content.read(BODY_MAX + 1)
            while len(body) <= BODY_MAX and (more := await response.content.read(BODY_MAX + 1 - len(body))):
                body += more
            return "it answers too much" if len(body) > BODY_MAX else read_answer(body)
    except TimeoutError:
        return "it does not answer in time"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        log.debug("observation.unanswered", source=str(source), reason=str(error))
        return "it cannot be reached"
    except Useless as useless:
        return str(useless)
