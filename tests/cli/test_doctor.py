"""Tests of `exitplane doctor`: how it gathers facts, and what it says where a control plane or an agent is missing."""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import ExitStack
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.config.state_dir import StateDir
from agent.control.enrolment import build_csr
from cli.agent_facts import find_agent, parse_limit, parse_options
from cli.control_plane_facts import default_api, gather_api, is_verified
from cli.host_facts import NoAnswer, ask_health
from model.authority import create_authority, sign_request
from model.doctor import agent_host, control_plane
from model.entities import Role
from model.identity import Identity
from model.settings import Settings
from tests.conftest import KEY_SETTING

ROOT = Path(__file__).parents[2]
CHECKS = [
    *(control_plane.SETTINGS_CHECKS, control_plane.SCHEMA_CHECKS, control_plane.DATABASE_CHECKS),
    *(control_plane.API_CHECKS, agent_host.STATE_CHECKS, agent_host.RUNNING_CHECKS),
]


def by_check(done) -> dict[str, str]:
    """Return the worst severity of each check in the JSON of a command that printed no error."""
    assert done.err == ""
    order = ("ok", "note", "warning", "error")
    found: dict[str, str] = {}
    for each in json.loads(done.out)["findings"]:
        found[each["check"]] = max(found.get(each["check"], "ok"), each["severity"], key=order.index)
    return found


@pytest.mark.postgres
async def test_running_control_plane_is_examined(exitplane, database_url, tmp_path):
    (tmp_path / "state").mkdir(mode=0o700)
    settings = {"EXITPLANE_DATABASE_URL": database_url, **KEY_SETTING}
    found = by_check(await exitplane("doctor", "--json", **settings))
    assert set(found) == {check.name for checks in CHECKS[:4] for check in checks}
    assert (found["database"], found["sealed-secrets"], found["database-clock"]) == ("ok",) * 3
    assert found["encryption-key"] == "note"
    shown = await exitplane("doctor", EXITPLANE_API_INSECURE="true", EXITPLANE_API_LISTEN="0.0.0.0:8000", **settings)
    assert re.search(r"^warning api-plaintext: the API speaks plain HTTP at 0\.0\.0\.0:8000", shown.out, re.MULTILINE)
    assert shown.status in {1, 2}


@pytest.mark.parametrize("url", [None, "postgresql://nobody@127.0.0.1:1/nothing"])
async def test_absent_control_plane_is_a_finding(command, url):
    settings = {"EXITPLANE_DATABASE_URL": url} if url else {}
    done = await command("doctor", "--json", "--api", "http://127.0.0.1:1", **settings)
    found = by_check(done)
    assert (done.status, found["database"], found["api"]) == (2, "error", "error")
    assert {found[check.name] for check in control_plane.DATABASE_CHECKS} == {"note"}


async def test_unusable_settings_are_a_finding(command):
    done = await command("doctor", EXITPLANE_XDS_LISTEN="nowhere")
    assert (done.status, done.err) == (2, "")
    assert done.out.startswith("error   settings: EXITPLANE_XDS_LISTEN='nowhere'")


@pytest.fixture
def state(tmp_path):
    """The state folder of an exit that has enrolled."""
    folder, now, key = StateDir(tmp_path / "agent"), datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    folder.path.mkdir(mode=0o700)
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_pem = key.private_bytes(serialization.Encoding.PEM, *plain).decode()
    authority = create_authority(now)
    reply = {
        "id": str(UUID(int=7)),
        "fleet_id": str(UUID(int=8)),
        "role": "exit",
        "name": "us-1",
        "api_host": "127.0.0.1",
        "xds": {"address": None, "port": 18000},
        "heartbeat": {"interval_s": 10},
        "certificate": sign_request(authority, build_csr(key_pem), Identity(UUID(int=8), Role.EXIT, UUID(int=7)), now),
        "authority": authority.certificate_pem,
    }
    folder.write("key.pem", key_pem)
    folder.write("enrolment.json", json.dumps(reply))
    return folder


async def test_agent_and_its_state_folder_are_examined(command, state):
    found = by_check(await command("doctor", "--agent", str(state.path), "--json"))
    assert (found["agent-state"], found["agent-certificate"], found["agent-keys"]) == ("ok",) * 3
    assert (found["agent-process"], found["observation"]) == ("warning", "note")
    with state.locked():  # by this process, which has no options of an agent and no Envoy
        found = by_check(await command("doctor", "--agent", str(state.path), "--json"))
    assert set(found) == {check.name for checks in CHECKS[4:] for check in checks}
    assert (found["agent-process"], found["agent-envoy"], found["agent-api"]) == ("ok", "error", "ok")
    assert (found["kill-switch"], found["observation"]) == ("warning", "warning")


async def test_missing_state_folder_is_a_finding(command, tmp_path):
    for folder in (tmp_path / "nothing", tmp_path):
        done = await command("doctor", "--agent", str(folder), "--json")
        found = by_check(done)
        assert (done.status, found["agent-state"], found["agent-process"]) == (2, "error", "warning")
        assert set(found) == {check.name for checks in CHECKS[4:] for check in checks}


async def test_open_files_in_state_folder_are_found(command, tmp_path):
    tmp_path.chmod(0o700)
    (tmp_path / "key.pem").write_text("")
    (tmp_path / "key.pem").chmod(0o644)
    admin = {"admin": {"address": {"socket_address": {"address": "0.0.0.0", "port_value": 9901}}}}
    (tmp_path / "bootstrap.json").write_text(json.dumps(admin))
    found = by_check(await command("doctor", "--agent", str(tmp_path), "--json"))
    assert (found["agent-keys"], found["agent-admin"], found["agent-folder"]) == ("error", "error", "ok")


async def test_agent_is_found_by_its_lock(tmp_path):
    assert find_agent(tmp_path) is None
    with (tmp_path / "agent.lock").open("w") as lock:
        assert find_agent(tmp_path) is None
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert find_agent(tmp_path) == os.getpid()


def test_options_of_agent_are_read_as_it_reads_them():
    arguments = [
        "python",
        "-m",
        "cli",
        "agent",
        "--role",
        "exit",
        "--tunnel=a.conf",
        "--tunnel",
        "b.conf",
        "--no-kill-switch",
        "--api",
        "x",
    ]
    variables = {
        "EXITPLANE_AGENT_API": "y",
        "EXITPLANE_AGENT_OBSERVE": "http://a http://b",
        "EXITPLANE_AGENT_KILL_SWITCH": "true",
        "EXITPLANE_AGENT_PARENT": "",
        "HOME": "/root",
    }
    assert parse_options(arguments, variables) == {
        "role": ["exit"],
        "tunnel": ["a.conf", "b.conf"],
        "no_kill_switch": ["true"],
        "api": ["x"],
        "observe": ["http://a", "http://b"],
    }
    assert parse_options([], {"EXITPLANE_AGENT_KILL_SWITCH": "0"}) == {"no_kill_switch": ["0"]}


@pytest.mark.parametrize(("value", "limit"), [("20000", 20_000), ("unlimited", 2**31 - 1)])
def test_limit_of_process_is_read(value, limit):
    lines = ["Limit      Soft Limit   Hard Limit   Units", f"Max open files      1024      {value}      files"]
    assert parse_limit(lines) == limit


@pytest.mark.parametrize(
    ("url", "verified"),
    [
        (None, True),
        ("postgresql://me@127.0.0.1/x", True),
        ("postgresql://me@localhost/x", True),
        ("postgresql:///x?host=/run/postgresql", True),
        ("postgresql://me@db.example/x", False),
        ("postgresql://me@db.example/x?sslmode=require", False),
        ("postgresql://me@db.example/x?sslmode=verify-full", True),
    ],
)
def test_database_on_another_host_needs_verified_tls(url, verified):
    assert is_verified(url) == verified


@pytest.mark.parametrize(
    ("listen", "tls", "url"),
    [
        ("0.0.0.0:8000,127.0.0.1:1", True, "https://127.0.0.1:8000"),
        ("[::1]:8000", False, "http://[::1]:8000"),
        ("plane.example:443", True, "https://plane.example:443"),
    ],
)
def test_own_api_is_found_by_the_settings(listen, tls, url):
    assert default_api(Settings(api_listen=listen, api_tls=tls)) == url


@pytest.fixture
def health():
    """`health(status, body)` serves that answer to GET /health in a thread, and returns its URL."""
    with ExitStack() as stack:

        def serve(status: int, body: object) -> str:
            class HealthHandler(BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(status if self.path == "/health" else 404)  # with a Date
                    self.end_headers()
                    self.wfile.write(json.dumps(body).encode())

                def log_message(self, *_):
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), HealthHandler))
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield serve


def test_health_of_replica_is_read(health):
    parts = {"database": {"ok": False, "reason": "it is away"}, "xds": {"ok": True, "reason": ""}}
    connections = {"api": {"open": 1, "waiting": 0, "closed": {"overdue": 2}}, "xds": {"closed": {"total": 1}}}
    facts = gather_api(health(200, {"ok": False, "parts": parts, "connections": connections}), None, None)
    assert (facts.away, facts.failing, facts.closed) == (None, {"database": "it is away"}, 3)
    assert facts.clock is not None
    for odd in (
        {"parts": {"a": 1}},
        {"parts": {}, "connections": [1]},
        {"parts": {}, "connections": {"api": {"closed": 1}}},
    ):
        assert gather_api(health(200, odd), None, None).away == "its answer is not that of a control plane"


@pytest.mark.parametrize("body", [[], {}, {"parts": 1}, "hello"])
def test_server_that_is_no_control_plane_gives_no_answer(health, body):
    with pytest.raises(NoAnswer, match="is not that of a control plane"):
        ask_health(health(200, body))
    for url in (health(500, {"parts": {}}), "http://127.0.0.1:1", "http://127.0.0.1:nonsense", "nonsense"):
        with pytest.raises(NoAnswer):
            ask_health(url)


def test_document_has_every_check_and_no_other():
    documented = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/doctor.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(check.name for checks in CHECKS for check in checks)
