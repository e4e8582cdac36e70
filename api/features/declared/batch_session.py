"""A session that works for a whole document: what is asked a thousand times is asked once, and what is written goes together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from sqlalchemy import FrozenResult, Select
from sqlalchemy.ext.asyncio import AsyncSession


class BatchSession:
    """An AsyncSession for what collections do to one thing at a time.

    Within `together`, what they flush waits until the block ends, and what they look up is remembered. A clash is then an
    IntegrityError of the whole block; whoever must know which thing it was does it again with `batched=False`.
    """

    def __init__(self, session: AsyncSession, *, batched: bool) -> None:
        self._session = session
        self._batched = batched
        self._holding = False
        self._answers: dict[tuple[Any, ...], FrozenResult[Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @property
    def as_session(self) -> AsyncSession:
        """What takes a session takes this."""
        return cast("AsyncSession", self)

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Things of one kind are written in the block, none of which another one of them refers to."""
        if not self._batched:
            yield
            return
        self._holding = True
        try:
            with self._session.no_autoflush:
                yield
        finally:
            self._holding = False
            self._answers.clear()
        await self._session.flush()

    async def flush(self) -> None:
        if not self._holding:
            await self._session.flush()

    async def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        question = self._question(statement) if self._holding and not args and not kwargs else None
        if question is None:
            return await self._session.execute(statement, *args, **kwargs)
        if question not in self._answers:
            self._answers[question] = (await self._session.execute(statement)).freeze()
        return self._answers[question]()

    @staticmethod
    def _question(statement: Any) -> tuple[Any, ...] | None:
        """What a statement asks; None when it does more than ask."""
        if not isinstance(statement, Select) or statement._for_update_arg is not None:  # noqa: SLF001 - no other way
            return None
        key = statement._generate_cache_key()  # noqa: SLF001 - as SQLAlchemy's own example of a cache does
        return None if key is None else (key.key, repr([each.effective_value for each in key.bindparams]))
