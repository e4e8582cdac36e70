from __future__ import annotations

from sqlalchemy.ext.asyncio import create_async_engine

from model.database import Database


def test_engines_of_a_process_share_compiled_statements() -> None:
    one = Database("postgresql://localhost/one").engine.sync_engine
    other = create_async_engine("postgresql+asyncpg://localhost/other").sync_engine
    assert one.dialect is other.dialect  # a compiled statement is found by it
    assert one._compiled_cache is other._compiled_cache
    assert one.url != other.url
    assert one.pool is not other.pool
