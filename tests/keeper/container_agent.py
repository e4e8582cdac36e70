"""The program of the containers in `test_containers_end_to_end`: an agent without Envoy, which reports that all is well."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
from yarl import URL

from agent.config.settings import AgentSettings, ExitSettings
from agent.config.state_dir import StateDir
from agent.config.status import HealthState, StatusBoard
from agent.control import enrolment, heartbeat
from agent.control.api_client import ApiClient
from agent.control.signed_client import SignedClient


async def main() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    given = {name.removeprefix("EXITPLANE_AGENT_"): value for name, value in os.environ.items()}
    settings = AgentSettings(
        api=URL(given["API"]),
        state=Path(given["STATE"]),
        name=given["NAME"],
        token_file=Path(given["TOKEN_FILE"]),
        exit=ExitSettings(pool=given["POOL"], address=given["ADDRESS"], port=int(given["PORT"])),
    )
    settings.state.mkdir(parents=True, exist_ok=True)
    folder = StateDir(settings.state)
    with folder.locked():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            client = ApiClient(session, settings.api)
            enrolled = await enrolment.ensure_enrolled(settings, folder, client)
            tun = Path("/dev/net/tun").exists()  # noqa: ASYNC240 - one stat
            print("enrolled as", enrolled.name, "with a tun device:", tun, flush=True)  # noqa: T201 - it is a program
            board = StatusBoard()
            board.update(tunnel=HealthState.UP, envoy=HealthState.UP, reason="")
            await heartbeat.HeartbeatSender(SignedClient(client, enrolled), board).run()


if __name__ == "__main__":
    asyncio.run(main())
