"""A join token and a signing request become a certificate, once."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.config.option_parsing import BadSetting
from agent.config.settings import ExitSettings
from agent.config.state_dir import StateDir, StateDirUnusable
from agent.control import enrolment as enrolments
from agent.control.api_client import ApiClient, RefusedByApi, parse_api
from agent.control.enrolment import BadEnrolment, ensure_enrolled, load
from agent.net.backoff import Backoff
from model.endpoint import Endpoint
from model.entities import Role
from model.locality import Locality
from model.request_signature import public_key_of

TOKEN = "ep-exit-never-to-be-seen"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(enrolments, "RETRY_BASE_S", 0.01)
    monkeypatch.setattr(enrolments, "RETRY_LIMIT_S", 0.02)


@pytest.fixture
def enrol(http):
    """`await enrol(settings)` gives the enrolment and its folder."""

    async def ask(settings):
        folder = StateDir(settings.state)
        with folder.held():
            return await ensure_enrolled(settings, folder, ApiClient(http, settings.api)), folder

    return ask


async def test_an_exit_says_where_it_stands_and_gets_an_identity(plane, make_settings, enrol):
    exit_ = ExitSettings("us", "192.0.2.3", 8443, bind_address="192.0.2.9", egress_address="10.0.0.2")
    plane.xds_port = 18000
    enrolment, _ = await enrol(make_settings(Role.EXIT, exit=exit_, name="us-1"))

    (wish,) = plane.enrolled
    assert plane.paths == ["/api/v1/exits/register"]
    assert wish.pop("join_token") == TOKEN
    csr = x509.load_pem_x509_csr(wish.pop("csr").encode())
    assert isinstance(csr.public_key().curve, ec.SECP256R1)
    assert csr.is_signature_valid
    assert wish.pop("version")
    assert wish == {
        "name": "us-1",
        "pool": "us",
        "address": "192.0.2.3",
        "port": 8443,
        "bind_address": "192.0.2.9",
        "egress_address": "10.0.0.2",
    }
    assert (enrolment.role, enrolment.fleet_id) == (Role.EXIT, UUID(int=1))
    # no address was given: the xDS server is where the API is
    assert enrolment.xds == Endpoint("127.0.0.1", 18000)
    assert public_key_of(enrolment.certificate_pem) == public_key_of(plane.certificate)


async def test_a_gateway_says_its_name_alone(plane, make_settings, enrol):
    await enrol(make_settings(Role.GATEWAY))

    assert plane.paths == ["/api/v1/proxies/register"]
    assert set(plane.enrolled[0]) == {"join_token", "csr", "name", "version"}


@pytest.mark.parametrize("role", list(Role))
async def test_either_role_says_where_it_stands_if_it_knows(plane, make_settings, enrol, role):
    await enrol(make_settings(role, locality=Locality("eu-west", "a")))

    assert plane.enrolled[0]["locality"] == "eu-west/a"


async def test_what_was_not_said_is_left_to_the_api(plane, make_settings, enrol):
    await enrol(make_settings(Role.EXIT))

    assert not {"bind_address", "egress_address", "locality"} & set(plane.enrolled[0])


async def test_nobody_else_can_read_what_was_given(make_settings, enrol):
    _, folder = await enrol(make_settings(Role.GATEWAY))

    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {each.name: each.stat().st_mode & 0o777 for each in folder.path.iterdir()} == {
        "agent.lock": 0o600,
        "key.pem": 0o600,
        "enrolment.json": 0o600,
    }
    assert TOKEN not in (folder.path / "enrolment.json").read_text()


async def test_a_second_start_does_not_enrol_again(plane, make_settings, enrol):
    first, _ = await enrol(make_settings(Role.GATEWAY))
    await plane.stop()
    second, _ = await enrol(make_settings(Role.GATEWAY))

    assert second == first
    assert len(plane.enrolled) == 1


async def test_an_api_that_moved_takes_the_xds_server_along(plane, make_settings, enrol, http):
    first, folder = await enrol(make_settings(Role.GATEWAY))

    assert load(folder, "192.0.2.77").xds == Endpoint("192.0.2.77", first.xds.port)
    assert load(folder).xds == first.xds


async def test_a_state_folder_belongs_to_one_proxy(make_settings, enrol, tmp_path):
    await enrol(make_settings(Role.GATEWAY, name="gw-1"))

    with pytest.raises(StateDirUnusable, match="belongs to the gateway 'gw-1', not to the gateway 'gw-2'"):
        await enrol(make_settings(Role.GATEWAY, name="gw-2"))
    with pytest.raises(StateDirUnusable, match="not to the exit"):
        await enrol(make_settings(Role.EXIT, state=tmp_path / "gateway"))


async def test_it_is_tried_again_with_the_same_key_while_the_api_cannot(plane, make_settings, enrol, answer):
    plane.instead = [
        answer(503, {"detail": "the database cannot be reached"}),
        answer(429, headers={"Retry-After": "0"}),
        answer(502, content_type="text/html"),
    ]
    await enrol(make_settings(Role.GATEWAY))

    assert len(plane.enrolled) == 4
    keys = {x509.load_pem_x509_csr(wish["csr"].encode()).public_key().public_numbers() for wish in plane.enrolled}
    assert len(keys) == 1


async def test_it_is_tried_again_while_nobody_listens(plane, make_settings, enrol):
    settings = make_settings(Role.GATEWAY)
    await plane.stop()
    enrolling = asyncio.create_task(enrol(settings))
    await asyncio.wait([enrolling], timeout=0.05)
    assert not enrolling.done()

    await plane.start()
    async with asyncio.timeout(60):
        await enrolling


async def test_retry_after_is_heeded(plane, make_settings, enrol, answer, monkeypatch):
    waits = []

    async def note(seconds):
        waits.append(seconds)

    plane.instead = [answer(503, headers={"Retry-After": "7"})]
    monkeypatch.setattr(enrolments.asyncio, "sleep", note)
    await enrol(make_settings(Role.GATEWAY))

    assert 7 in waits


async def test_a_refusal_ends_it_in_one_line_that_names_field_value_and_hint(plane, make_settings, enrol, answer):
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


async def test_a_refused_token_is_not_repeated(plane, make_settings, enrol, answer):
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
async def test_strange_refusals_end_it_in_one_line_too(plane, make_settings, enrol, answer, status, body, content_type):
    plane.instead = [answer(status, body, content_type)]

    with pytest.raises(RefusedByApi) as refused:
        await enrol(make_settings(Role.GATEWAY))

    assert f"answered {status}" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("body", [{}, {"id": "x"}, {"xds": None}])
async def test_an_answer_that_is_no_enrolment_leaves_none_behind(plane, make_settings, enrol, answer, body):
    plane.instead = [answer(201, body, "application/json")]
    settings = make_settings(Role.GATEWAY)

    with pytest.raises(BadEnrolment, match="this is no enrolment"):
        await enrol(settings)

    assert load(StateDir(settings.state)) is None


async def test_a_certificate_for_another_key_is_refused(make_settings, enrol, tmp_path):
    settings = make_settings(Role.GATEWAY)
    _, folder = await enrol(settings)
    other, _ = await enrol(make_settings(Role.GATEWAY, state=tmp_path / "other"))
    folder.write("key.pem", other.key_pem)

    with pytest.raises(BadEnrolment, match="for another key"):
        load(folder)


async def test_a_spoilt_enrolment_names_the_file(make_settings, enrol):
    _, folder = await enrol(make_settings(Role.GATEWAY))
    folder.write("enrolment.json", json.dumps({})[:1])

    with pytest.raises(BadEnrolment, match=r"enrolment\.json is no JSON; remove it"):
        load(folder)


async def test_without_a_token_nothing_is_asked(plane, make_settings, enrol, tmp_path):
    (tmp_path / "token").unlink()

    with pytest.raises(BadSetting, match="--token-file"):
        await enrol(make_settings(Role.GATEWAY))

    assert plane.enrolled == []


async def test_an_api_below_a_path_is_found(http, plane):
    with pytest.raises(RefusedByApi, match="/below/api/v1/x answered 404"):
        await ApiClient(http, parse_api(f"{plane.url}/below/")).post("/api/v1/x", b"{}")


def test_two_agents_cannot_share_a_folder(tmp_path):
    with StateDir(tmp_path / "state").held(), pytest.raises(StateDirUnusable, match="another agent works in"):
        StateDir(tmp_path / "state").held().__enter__()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StateDirUnusable, match="--state"):
        StateDir(tmp_path / "file" / "state").held().__enter__()


def test_waits_double_to_a_limit_and_spread_over_their_upper_half():
    longest, shortest = Backoff(1, 5, lambda: 1.0), Backoff(1, 5, lambda: 0.0)

    assert [longest.next_s() for _ in range(5)] == [1, 2, 4, 5, 5]
    assert [shortest.next_s() for _ in range(5)] == [0.5, 1, 2, 2.5, 2.5]
    longest.reset()
    assert longest.next_s() == 1
