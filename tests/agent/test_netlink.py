"""Counting changes of the network."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from agent.config.status import StatusBoard
from agent.net.netlink import count_network_changes
from tests.tasks import running
from tests.tunnels.lab import why_no_lab
from tests.tunnels.namespaces import private_network

pytestmark = pytest.mark.tunnels
LINK = "epchange0"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


async def test_link_changes_are_counted_and_then_end():
    if (reason := why_no_lab()) is not None:
        pytest.skip(f"no namespaces: {reason}")
    with private_network():
        await _come_and_go()


async def _come_and_go() -> None:
    board = StatusBoard()
    async with running(count_network_changes(board)):
        await asyncio.sleep(0)
        changed = board.changed
        ip("link", "add", LINK, "type", "veth", "peer", "name", f"{LINK}b")
        await asyncio.wait_for(changed.wait(), 60)
        changed = board.changed
        ip("link", "delete", LINK)
        await asyncio.wait_for(changed.wait(), 60)
        assert 2 <= board.report.network_changes < 10
