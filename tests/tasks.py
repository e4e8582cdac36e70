"""Coroutines that run during a test and end before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def running(*coroutines: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run coroutines as tasks; at the end cancel them, and wait for their cleanup. Raises the exception of a task.

    Without the wait, closing the test's event loop would cancel a task again during its cleanup.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in coroutines]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
