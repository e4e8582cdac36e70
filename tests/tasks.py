"""Coroutines that run beside a test and have ended before it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def running(*coroutines: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run them as tasks; at the end cancel them and wait until they have cleaned up. Raises what one of them raises.

    A task that is only cancelled is cancelled once more when the test's event loop closes, in the midst of its cleaning up.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in coroutines]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
