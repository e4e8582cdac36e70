"""The agent's calls of ss(8)."""

from __future__ import annotations

import asyncio
import os

import pytest

from agent.net.ss import ss


async def test_ss_is_killed_with_cancelled_caller(tmp_path, monkeypatch, until):
    (tmp_path / "ss").write_text('#!/bin/sh\necho $$ > "$(dirname "$0")/pid"\nexec sleep 600\n')
    (tmp_path / "ss").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    asking = asyncio.create_task(ss())
    pid = int(await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
