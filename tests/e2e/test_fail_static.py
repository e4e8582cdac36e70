"""Tests of a gateway whose Envoy dies while the control plane is down: it serves again at once, and resumes later."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from contextlib import suppress

import pytest

from demo.http_client import user_headers
from tests.api.certificates import certificate
from tests.e2e.labs import LogFromNow, with_lasting_database
from tests.ports import reserved_port

POOLS = ("us", "gb")
SERVER_NAME = "us.gateway.example"


@pytest.fixture(scope="module")
def lab_opener():
    return with_lasting_database


def serves(lab, country: str) -> bool:
    try:
        return lab.request(country, tunnel=False).status == 200
    except OSError:
        return False


def names_country(lab, country: str) -> bool:
    """Return True if the gateway lists this country in its answer to requests without a country."""
    return country in lab.request(None, tunnel=False).text.rpartition("served are: ")[2].split(", ")


def updates(lab, stat) -> dict[str, int]:
    """Read how often the gateway's Envoy applied an update, by counter."""
    names = [
        "cluster_manager.cds.update_success",
        "listener_manager.lds.update_success",
        "rds.gateway_routes.update_success",
    ]
    names += [f"cluster.pool/{pool}.update_success" for pool in pools(lab)]
    return {name: stat(lab.gateway, name) for name in names}


def pools(lab) -> list[str]:
    """Read the ids of the pools that the gateway has."""
    lines = lab.gateway.query_admin("/stats?filter=^cluster.pool/.*.membership_total$&format=text").splitlines()
    return sorted(line.removeprefix("cluster.pool/").partition(".")[0] for line in lines if line)


def test_restarted_gateway_serves_without_the_control_plane(lab, run_clients, eventually, stat, remove_pool):
    gateway = lab.gateway
    eventually((gateway.state_dir / "record.bin").exists)
    had = pools(lab)
    with run_clients("us") as clients:
        lab.kill_control_plane()
        eventually(lambda: len(clients.answers) > 20)
    assert clients.failures(since=0) == []
    dead = gateway.envoy_pid
    gateway.kill_envoy()
    eventually(lambda: gateway.envoy_pid != dead and all(serves(lab, country) for country in POOLS))

    with run_clients("us") as clients:
        eventually(lambda: len(clients.answers) > 50)
        assert lab.control_plane is None
        assert pools(lab) == had
        before = updates(lab, stat)
        streams = stat(gateway, "cluster.agent.upstream_rq_total")

        lab.start_control_plane()
        # the agent ends the stream that it served itself, and relays the next one
        eventually(lambda: stat(gateway, "cluster.agent.upstream_rq_total") > streams)
        lab.wait_until_healthy()
        assert updates(lab, stat) == before

        pool = lab.api("POST", "/pools", {"name": "late", "fleet": "demo", "country": "fr"})
        eventually(lambda: names_country(lab, "fr"))
        added = f"cluster.pool/{pool['id']}.update_success"
        after = updates(lab, stat)
        # only the change: what Envoy had is not sent again
        assert after.pop(added) == 1
        changed = {name for name, value in after.items() if value != before[name]}
        assert changed == {"cluster_manager.cds.update_success", "rds.gateway_routes.update_success"}
        assert all(after[name] == before[name] + 1 for name in changed)
    assert clients.failures(since=0) == []
    assert clients.sources(since=0) <= lab.egress_addresses("us")
    assert stat(gateway, "listener_manager.listener_modified") == 0
    remove_pool(pool["id"])


def test_next_agent_takes_over_the_envoy_of_a_killed_one(lab, run_clients, eventually, stat, remove_pool):
    gateway = lab.gateway
    envoy = gateway.envoy_pid
    with run_clients("gb") as clients:
        lab.processes.kill(gateway.child)
        gateway.child = None
        # Envoy connects directly, without its agent
        eventually(lambda: stat(gateway, "cluster.xds.upstream_rq_active") == 1)
        pool = lab.api("POST", "/pools", {"name": "meanwhile", "fleet": "demo", "country": "it"})
        eventually(lambda: names_country(lab, "it"))

        log = LogFromNow(lab, gateway.name)
        gateway.start()
        eventually(lambda: "envoy.taken_over" in log)
        lab.kill_control_plane()
        eventually(lambda: stat(gateway, "cluster.agent.upstream_rq_active") == 1)
        eventually(lambda: "ads.from_record" in log)
        # its record is older than the pool, but Envoy keeps the pool
        assert names_country(lab, "it")
        assert gateway.envoy_pid == envoy
        log = LogFromNow(lab, gateway.name)
        lab.start_control_plane()
        eventually(lambda: "ads.back" in log)
        remove_pool(pool["id"])
    assert clients.failures(since=0) == []


def test_record_restores_tls_and_groups_without_cleartext_keys(lab, port, eventually):
    gateway, record = lab.gateway, lab.gateway.state_dir / "record.bin"
    pair = certificate(SERVER_NAME, days=10_000)
    chain = pair["chain"]
    made = [
        lab.api("POST", "/certificates", {"name": "front", "fleet": "demo", **pair}),
        lab.api(
            "POST",
            "/listeners",
            {"name": "tls", "fleet": "demo", "address": "127.0.0.1", "port": port}
            | {"certificate": "front", "countries_by_server_name": {SERVER_NAME: "us"}},
        ),
        lab.api("POST", "/users", {"name": "alice", "fleet": "demo", "group": "staff"}),
        lab.api(
            "POST",
            "/routes",
            {"name": "staff", "fleet": "demo"} | {"match": {"groups": ["staff"]}, "action": {"deny": {"status": 418}}},
        ),
    ]

    def serves_both() -> bool:
        return [_over_tls(lab, port, chain, user) for user in ("alice", "bob")] == [418, 200]

    eventually(serves_both)
    eventually(record.exists)
    changed_at = time.time()
    made.append(lab.api("POST", "/users", {"name": "carol", "fleet": "demo", "group": "staff"}))
    eventually(lambda: _over_tls(lab, port, chain, "carol") == 418)
    eventually(lambda: record.stat().st_mtime > changed_at)

    lab.kill_control_plane()
    lab.processes.kill(gateway.child)
    gateway.child = None
    gateway.kill_envoy()
    assert not serves_both()
    gateway.start()
    eventually(serves_both)
    assert lab.control_plane is None
    secret = pair["key"].splitlines()[1].encode()
    files = [path for path in gateway.state_dir.rglob("*") if path.is_file()]
    assert record in files
    assert not [path for path in files if secret in path.read_bytes()]

    log = LogFromNow(lab, gateway.name)
    lab.start_control_plane()
    eventually(lambda: "ads.back" in log)
    collections = ("certificates", "listeners", "users", "routes", "users")
    for collection, each in sorted(zip(collections, made, strict=True), key=lambda it: it[0] == "certificates"):
        lab.api("DELETE", f"/{collection}/{each['id']}")
    eventually(lambda: _over_tls(lab, port, chain, "bob") is None)
    assert serves(lab, "us")


@pytest.fixture
def port():
    """A reserved port for a listener of a test."""
    with reserved_port() as held:
        yield held


def _over_tls(lab, port: int, chain: str, user: str) -> int | None:
    """Send a user's request over TLS with SERVER_NAME, and return the status; None without an answer."""
    context = ssl.create_default_context(cadata=chain)
    with (
        suppress(OSError, http.client.HTTPException),
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as tls,
    ):
        connection = http.client.HTTPConnection(SERVER_NAME)
        connection.sock = tls
        connection.request("GET", f"{lab.page_url}/", headers=user_headers(user))
        return connection.getresponse().status
    return None
