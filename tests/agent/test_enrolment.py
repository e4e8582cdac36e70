"""Enrolment: one registration for each state folder, retries and refusals."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.config.option_parsing import BadSetting, parse_api, read_authority
from agent.config.settings import ExitSettings
from agent.config.state_dir import StateDir, StateDirUnusable
from agent.control import enrolment as enrolments
from agent.control.api_client import ApiClient, ApiUnavailable, RefusedByApi, open_context, trust
from agent.control.enrolment import BadEnrolment, ensure_enrolled, load
from agent.net.backoff import Backoff
from api.runtime.api_certificate import open_context as open_server_context
from model.authority import create_authority, issue_server
from model.endpoint import Endpoint
from model.entities import Role
from model.locality import Locality
from model.request_signature import public_key_of

TOKEN = "ep-exit-never-to-be-seen"


@pytest.fixture(autouse=True)
def _short_retries(monkeypatch):
    monkeypatch.setattr(enrolments, "RETRY_BASE_S", 0.01)
    monkeypatch.setattr(enrolments, "RETRY_LIMIT_S", 0.02)


@pytest.fixture
def enrol(http):
    """A function `await enrol(settings)` that returns the enrolment and its folder."""

    async def ask(settings):
        folder = StateDir(settings.state)
        with folder.locked():
            return await ensure_enrolled(settings, folder, ApiClient(http, settings.api)), folder

    return ask


async def test_exit_registers_its_addresses_and_gets_certificate(plane, make_settings, enrol):
    exit_ = ExitSettings("us", "192.0.2.3", 8443, bind_address="192.0.2.9", egress_address="10.0.0.2")
    plane.xds_port = 18000
    enrolment, _ = await enrol(make_settings(Role.EXIT, exit=exit_, name="us-1"))

    (request,) = plane.enrolled
    assert plane.paths == ["/api/v1/exits/register"]
    assert request.pop("join_token") == TOKEN
    csr = x509.load_pem_x509_csr(request.pop("csr").encode())
    assert isinstance(csr.public_key().curve, ec.SECP256R1)
    assert csr.is_signature_valid
    assert request.pop("version")
    assert request.pop("renews") is True
    assert request == {
        "name": "us-1",
        "pool": "us",
        "address": "192.0.2.3",
        "port": 8443,
        "bind_address": "192.0.2.9",
        "egress_address": "10.0.0.2",
    }
    assert (enrolment.role, enrolment.fleet_id) == (Role.EXIT, UUID(int=1))
    # without an address the xDS server has the host of the API
    assert enrolment.xds == Endpoint("127.0.0.1", 18000)
    assert public_key_of(enrolment.certificate_pem) == public_key_of(plane.certificate)


async def test_gateway_registers_name_only(plane, make_settings, enrol):
    await enrol(make_settings(Role.GATEWAY))

    assert plane.paths == ["/api/v1/proxies/register"]
    assert set(plane.enrolled[0]) == {"join_token", "csr", "name", "version", "renews"}


@pytest.mark.parametrize("role", list(Role))
async def test_registration_has_locality(plane, make_settings, enrol, role):
    await enrol(make_settings(role, locality=Locality("eu-west", "a")))

    assert plane.enrolled[0]["locality"] == "eu-west/a"


async def test_registration_leaves_out_unset_fields(plane, make_settings, enrol):
    await enrol(make_settings(Role.EXIT))

    assert not {"bind_address", "egress_address", "locality"} & set(plane.enrolled[0])


async def test_state_folder_is_private(make_settings, enrol):
    _, folder = await enrol(make_settings(Role.GATEWAY))

    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {each.name: each.stat().st_mode & 0o777 for each in folder.path.iterdir()} == {
        "agent.lock": 0o600,
        "key.pem": 0o600,
        "enrolment.json": 0o600,
    }
    assert TOKEN not in (folder.path / "enrolment.json").read_text()


async def test_second_start_does_not_enrol_again(plane, make_settings, enrol):
    first, _ = await enrol(make_settings(Role.GATEWAY))
    await plane.stop()
    second, _ = await enrol(make_settings(Role.GATEWAY))

    assert second == first
    assert len(plane.enrolled) == 1


async def test_moved_api_moves_xds_address(plane, make_settings, enrol, http):
    first, folder = await enrol(make_settings(Role.GATEWAY))

    assert load(folder, "192.0.2.77").xds == Endpoint("192.0.2.77", first.xds.port)
    assert load(folder).xds == first.xds


async def test_state_folder_belongs_to_one_proxy(make_settings, enrol, tmp_path):
    await enrol(make_settings(Role.GATEWAY, name="gw-1"))

    with pytest.raises(StateDirUnusable, match="belongs to the gateway 'gw-1', not to the gateway 'gw-2'"):
        await enrol(make_settings(Role.GATEWAY, name="gw-2"))
    with pytest.raises(StateDirUnusable, match="not to the exit"):
        await enrol(make_settings(Role.EXIT, state=tmp_path / "gateway"))


async def test_registration_is_retried_with_same_key(plane, make_settings, enrol, answer):
    plane.instead = [
        answer(503, {"detail": "the database cannot be reached"}),
        answer(429, headers={"Retry-After": "0"}),
        answer(502, content_type="text/html"),
    ]
    await enrol(make_settings(Role.GATEWAY))

    assert len(plane.enrolled) == 4
    keys = {x509.load_pem_x509_csr(request["csr"].encode()).public_key().public_numbers() for request in plane.enrolled}
    assert len(keys) == 1


async def test_registration_is_retried_until_api_listens(plane, make_settings, enrol):
    settings = make_settings(Role.GATEWAY)
    await plane.stop()
    task = asyncio.create_task(enrol(settings))
    await asyncio.wait([task], timeout=0.05)
    assert not task.done()

    await plane.start()
    async with asyncio.timeout(60):
        await task


async def test_registration_honours_retry_after(plane, make_settings, enrol, answer, monkeypatch):
    waits = []

    async def note(seconds):
        waits.append(seconds)

    plane.instead = [answer(503, headers={"Retry-After": "7"})]
    monkeypatch.setattr(enrolments.asyncio, "sleep", note)
    await enrol(make_settings(Role.GATEWAY))

    assert 7 in waits


async def test_refusal_is_one_line_with_field_value_and_hint(plane, make_settings, enrol, answer):
    errors = [
        {"field": "/pool", "value": "atlantis", "message": "there is no such pool", "hint": "create it first"},
        {"field": "/port", "value": 0, "message": "too small", "hint": "more"},
    ]
    plane.instead = [answer(422, {"detail": "there is no such pool", "code": "unknown_pool", "errors": errors})]

    with pytest.raises(RefusedByApi) as refused:
        await enrol(make_settings(Role.EXIT))

    assert str(refused.value) == (
        f"{plane.url}/api/v1/exits/register answered 422: there is no such pool: pool='atlantis'; create it first"
    )
    assert len(plane.enrolled) == 1


async def test_refusal_does_not_show_token(plane, make_settings, enrol, answer):
    errors = [{"field": "/join_token", "value": TOKEN, "message": "it has expired", "hint": "ask for another"}]
    plane.instead = [answer(401, {"detail": "the join token is unknown", "errors": errors})]

    with pytest.raises(RefusedByApi) as refused:
        await enrol(make_settings(Role.EXIT))

    assert str(refused.value).endswith("401: the join token is unknown: join_token: it has expired; ask for another")


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (404, {}, "text/plain"),
        (307, {}, "text/plain"),
        (400, {"errors": ["?"], "detail": 7, "title": "line\nline"}, "application/problem+json"),
        (403, {"errors": {}}, "application/problem+json"),
    ],
)
async def test_malformed_refusal_is_one_line(plane, make_settings, enrol, answer, status, body, content_type):
    plane.instead = [answer(status, body, content_type)]

    with pytest.raises(RefusedByApi) as refused:
        await enrol(make_settings(Role.GATEWAY))

    assert f"answered {status}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("body", [{}, {"id": "x"}, {"xds": None}])
async def test_invalid_answer_is_not_stored(plane, make_settings, enrol, answer, body):
    plane.instead = [answer(201, body, "application/json")]
    settings = make_settings(Role.GATEWAY)

    with pytest.raises(BadEnrolment, match="the enrolment is invalid"):
        await enrol(settings)

    assert load(StateDir(settings.state)) is None


async def test_certificate_for_another_key_is_refused(make_settings, enrol, tmp_path):
    settings = make_settings(Role.GATEWAY)
    _, folder = await enrol(settings)
    other, _ = await enrol(make_settings(Role.GATEWAY, state=tmp_path / "other"))
    folder.write("key.pem", other.key_pem)

    with pytest.raises(BadEnrolment, match="for another key"):
        load(folder)


async def test_invalid_enrolment_file_is_named(make_settings, enrol):
    _, folder = await enrol(make_settings(Role.GATEWAY))
    folder.write("enrolment.json", json.dumps({})[:1])

    with pytest.raises(BadEnrolment, match=r"enrolment\.json is not JSON; remove it"):
        load(folder)


async def test_missing_token_sends_no_request(plane, make_settings, enrol, tmp_path):
    (tmp_path / "token").unlink()

    with pytest.raises(BadSetting, match="--token-file"):
        await enrol(make_settings(Role.GATEWAY))

    assert plane.enrolled == []


async def test_api_below_a_path_is_reached(http, plane):
    with pytest.raises(RefusedByApi, match="/below/api/v1/x answered 404"):
        await ApiClient(http, parse_api(f"{plane.url}/below/")).post("/api/v1/x", b"{}")


@pytest.fixture
async def secure_plane(plane, authority):
    """The API over TLS, with a certificate of the control plane's authority."""
    await plane.stop()
    now = datetime.now(UTC)
    plane.tls = open_server_context(issue_server(authority, now, ["127.0.0.1"]), now)
    await plane.start()
    return plane


async def test_agent_enrols_where_its_authority_signed_the_certificate(
    secure_plane, authority, make_settings, http, tmp_path
):
    file = tmp_path / "ca.pem"
    file.write_text(authority.certificate_pem)
    settings = replace(make_settings(Role.GATEWAY), api_ca=read_authority("--api-ca", file))
    folder = StateDir(settings.state)
    with folder.locked():
        enrolled = await ensure_enrolled(settings, folder, ApiClient(http, settings.api, tls=trust(settings)))

    assert enrolled.authority_pem == authority.certificate_pem


async def test_untrusted_certificate_is_sent_no_token(secure_plane, make_settings, http):
    settings = make_settings(Role.GATEWAY)
    with pytest.raises(ApiUnavailable, match=r"is not trusted \(.*\); name its authority's file with --api-ca"):
        await ApiClient(http, settings.api).post("/api/v1/proxies/register", b"{}")

    assert secure_plane.enrolled == []


async def test_enrolled_agent_trusts_the_authority_of_its_enrolment(secure_plane, authority, make_settings, http):
    settings = make_settings(Role.GATEWAY)
    folder = StateDir(settings.state)
    with folder.locked():
        given = ApiClient(http, settings.api, tls=open_context([authority.certificate_pem], system=False))
        enrolled = await ensure_enrolled(settings, folder, given)
    with pytest.raises(RefusedByApi, match="answered 404"):
        await ApiClient(http, settings.api, tls=trust(settings, enrolled)).post("/api/v1/x", b"{}")
    elsewhere = replace(settings, api_ca=create_authority(datetime.now(UTC)).certificate_pem)
    with pytest.raises(
        RefusedByApi, match="answered 404"
    ):  # its authority may have a new root since --api-ca was written
        await ApiClient(http, settings.api, tls=trust(elsewhere, enrolled)).post("/api/v1/x", b"{}")
    with pytest.raises(ApiUnavailable, match="is not trusted"):
        await ApiClient(http, settings.api, tls=trust(elsewhere)).post("/api/v1/x", b"{}")


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("none", "it holds no certificate")])
def test_unusable_file_of_an_authority_is_refused(content, reason, tmp_path):
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(BadSetting, match=rf"--api-ca .*ca.pem cannot be used \({reason}"):
        read_authority("--api-ca", tmp_path / "ca.pem")


def test_two_agents_cannot_share_a_folder(tmp_path):
    with StateDir(tmp_path / "state").locked(), pytest.raises(StateDirUnusable, match="another agent uses"):
        StateDir(tmp_path / "state").locked().__enter__()


def test_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StateDirUnusable, match="--state"):
        StateDir(tmp_path / "file" / "state").locked().__enter__()


def test_backoff_doubles_to_limit_with_jitter_of_upper_half():
    longest, shortest = Backoff(1, 5, lambda: 1.0), Backoff(1, 5, lambda: 0.0)

    assert [longest.next_s() for _ in range(5)] == [1, 2, 4, 5, 5]
    assert [shortest.next_s() for _ in range(5)] == [0.5, 1, 2, 2.5, 2.5]
    longest.reset()
    assert longest.next_s() == 1
