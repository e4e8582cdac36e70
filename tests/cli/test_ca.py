"""Tests of `exitplane ca`."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

import pytest

from model.authority import create_authority
from model.database import Database
from model.repositories import enrolment
from tests.conftest import KEYRING


@pytest.fixture
def ca(command, database_url):
    return functools.partial(command, "ca", EXITPLANE_DATABASE_URL=database_url)


async def test_certificate_of_the_authority_is_printed_and_its_key_is_not(ca, database_url, tmp_path):
    done = await ca()
    assert (done.status, done.out) == (1, "")
    assert "there is no authority yet; start `exitplane serve`" in done.err

    authority = create_authority(datetime.now(UTC))
    database = Database(database_url, keyring=KEYRING, pool_size=1)
    async with database.session() as session:
        await enrolment.ensure_authority(session, lambda: authority)
    await database.close()
    done = await ca()
    assert (done.status, done.out) == (0, authority.certificate_pem)
    assert (await ca("--output", str(tmp_path / "ca.pem"))).out == ""
    assert (tmp_path / "ca.pem").read_text() == authority.certificate_pem
    assert "cannot be written" in (await ca("--output", str(tmp_path))).err
