"""Fixtures: a running API and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from client import Client
from model.authority import create_authority
from model.database import Database
from tests.api_server import ApiInstance, run_api


@pytest.fixture(scope="session")
def authority():
    return create_authority(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def plane(authority, database: Database, clock, until) -> AsyncIterator[ApiInstance]:
    async with run_api(authority, database, clock, until) as instance:
        yield instance


@pytest.fixture
async def api(plane: ApiInstance) -> AsyncIterator[Client]:
    async with plane.client() as client:
        yield client
