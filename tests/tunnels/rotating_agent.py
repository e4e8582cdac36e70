"""The command `exitplane agent` with short intervals, and a seamless rotation on SIGUSR1."""

from __future__ import annotations

import asyncio
import functools
import signal

import agent.service
from agent.vpn.managed_tunnel import ManagedTunnel
from agent.vpn.tunnel_supervisor import RetryPace
from cli.main import main
from model.errors import ExitplaneError
from tests.tunnels.drain import wait_for_none_open

PACE = RetryPace(check_s=0.2, retry_base_s=0.1, retry_limit_s=0.2, useless_after_s=1.0, resolver_s=0.5)


class RotatingTunnel(ManagedTunnel):
    """A managed tunnel that rotates on SIGUSR1."""

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: tasks.create_task(self._rotate()))
        await super().start(tasks)

    async def _rotate(self) -> None:
        if not self.can_rotate_seamlessly:
            await self.rotate()
            return
        assert self._carrying is not None
        try:
            await self.rotate_seamlessly(None, None, functools.partial(wait_for_none_open, self._carrying.addresses))
        except ExitplaneError as error:
            print("not rotated:", error, flush=True)  # noqa: T201  # to the log that a failed test shows


if __name__ == "__main__":
    agent.service.ManagedTunnel = functools.partial(RotatingTunnel, pace=PACE)
    main()
