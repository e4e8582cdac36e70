"""The agent renews its certificate by itself, stores it, and hands it to whoever uses it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from cryptography import x509
from structlog.testing import capture_logs

from agent.config.state_dir import StateDir
from agent.control import renewal as renewals
from agent.control.api_client import ApiClient
from agent.control.enrolment import ensure_enrolled, load
from agent.control.renewal import Renewal, find_due_time
from agent.control.signed_client import Deregistered, SignedClient
from agent.envoy.secrets import IDENTITY_PATH
from model.authority import create_authority, issue_server
from model.entities import Role
from model.request_signature import thumbprint_of

SOON = timedelta(seconds=2)
"""The lifetime of a certificate that is due for renewal within a second."""


@pytest.fixture(autouse=True)
def _short_retries(monkeypatch):
    monkeypatch.setattr(renewals, "RETRY_BASE_S", 0.01)
    monkeypatch.setattr(renewals, "RETRY_LIMIT_S", 0.02)


@pytest.fixture
def renewing(http, make_settings, plane):
    """`async with renewing(lifetime)`: run the renewal of a certificate; yield client, folder, new enrolments and task."""

    @asynccontextmanager
    async def begin(lifetime: timedelta):
        plane.lifetime = lifetime
        settings = make_settings(Role.GATEWAY)
        folder = StateDir(settings.state)
        with folder.locked():
            client = SignedClient(
                ApiClient(http, settings.api), await ensure_enrolled(settings, folder, ApiClient(http, settings.api))
            )
            plane.lifetime = timedelta(hours=48)
            used = []

            def use(enrolment):
                used.append(enrolment)
                client.use(enrolment)

            task = asyncio.create_task(Renewal(client, folder, use).run())
            yield client, folder, used, task
            task.cancel()
            with suppress(asyncio.CancelledError, Deregistered):
                await task

    return begin


async def test_expiring_certificate_is_renewed_once_and_stored(plane, renewing, until):
    async with renewing(SOON) as (client, folder, used, _):
        await until(lambda: used)
        assert client.enrolment.certificate_pem == plane.certificate
        assert load(folder) == used[-1] == client.enrolment
        assert client.enrolment.key_pem == folder.read("key.pem")
        await asyncio.sleep(0)
        assert len(plane.renewals) == 1


async def test_renewal_is_due_at_about_a_third_of_the_lifetime(plane, renewing):
    async with renewing(timedelta(hours=48)):
        certificate = x509.load_pem_x509_certificate(plane.certificate.encode())
        now = datetime.now(UTC)
        dues = {find_due_time(certificate, renewals._draw_part()) for _ in range(32)}
        assert len(dues) > 1
        assert min(dues) > now + timedelta(hours=13, minutes=55)
        assert max(dues) < now + timedelta(hours=19, minutes=30)
        assert plane.renewals == []


async def test_certificate_is_renewed_when_the_authority_has_another_version(plane, renewing, until):
    async with renewing(timedelta(hours=48)) as (client, folder, used, _):
        renewal = Renewal(client, folder, lambda enrolment: (used.append(enrolment), client.use(enrolment)))
        task = asyncio.create_task(renewal.run())
        for same in (plane.authority.version, "", None):  # a control plane of 0.1.0 states none
            renewal.note_authority(same, 0)
        plane.authority = create_authority(datetime.now(UTC))
        for _ in range(3):
            renewal.note_authority(plane.authority.version, 0)
        await until(lambda: used)
        assert client.enrolment.authority_version == plane.authority.version
        assert client.enrolment.authority_pem == load(folder).authority_pem == plane.authority.certificate_pem
        assert len(plane.renewals) == 1
        task.cancel()


async def test_renewal_is_retried_until_the_api_answers(plane, renewing, until, answer):
    plane.to_renewals = answer(503)
    with capture_logs() as logs:
        async with renewing(SOON) as (_, folder, used, _):
            before = folder.read("enrolment.json")
            await until(lambda: any(each["event"] == "certificate.not_renewed" for each in logs))
            assert folder.read("enrolment.json") == before
            plane.to_renewals = None
            await until(lambda: used)
    assert [each["event"] for each in logs if each["event"].startswith("certificate.")] == [
        "certificate.not_renewed",
        "certificate.renewed",
    ]


async def test_certificate_for_another_key_is_not_taken(plane, renewing, until, answer):
    async with renewing(timedelta(days=1)) as (client, folder, used, _):
        before = folder.read("enrolment.json")
        foreign = issue_server(plane.authority, datetime.now(UTC)).certificate_pem
        given = {"certificate": foreign, "authority": plane.authority.certificate_pem, "authority_version": "2"}
        plane.to_renewals = answer(201, given, "application/json")
        with capture_logs() as logs:
            assert not await Renewal(client, folder, used.append).attempt()
        assert "another key" in logs[-1]["reason"]
        assert (folder.read("enrolment.json"), used) == (before, [])


async def test_removed_proxy_ends(plane, renewing, until, answer):
    plane.to_renewals = answer(410, {"code": "deregistered", "detail": "this proxy was deregistered"})
    async with renewing(SOON) as (_, _, used, task):
        with pytest.raises(Deregistered):
            await task
        assert used == []


@pytest.mark.envoy
async def test_running_agent_uses_the_renewed_certificate(plane, source, make_settings, start, until, admin_of):
    """Envoy keeps running, reads the new file, and heartbeats go on with the new key's certificate."""
    plane.lifetime = SOON
    running = start(make_settings(Role.GATEWAY))
    plane_first = await until(lambda: plane.certificate)
    plane.lifetime = timedelta(hours=48)
    await until(lambda: plane.renewals and plane.beats)
    assert plane.renewals == [thumbprint_of(plane_first)]
    admin = await admin_of(running)
    folder = StateDir(running.settings.state)
    pid = running.record["pid"]
    secret = yaml.safe_load(folder.read(IDENTITY_PATH))["resources"][0]["tls_certificate"]
    assert secret["certificate_chain"]["inline_string"] == plane.certificate

    async def shows_renewed() -> bool:
        shown = json.loads(await admin._request("GET", "/certs"))["certificates"]
        ends = [each["expiration_time"] for cert in shown for each in cert["cert_chain"]]
        return bool(ends) and all(
            datetime.fromisoformat(each) > datetime.now(UTC) + timedelta(hours=1) for each in ends
        )

    await until(shows_renewed)
    assert running.record["pid"] == pid
