"""Tests of what operators see of real Envoys: the configuration of each, rejections, and unfinished rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from demo import http_client
from demo.agents import EXITPLANE
from tests.e2e.labs import BOUND_S
from xds.translate import names

LDS = "listener_manager.lds"


@pytest.fixture
def waiting_write(lab):
    """Send a write that waits for the proxies, and return their answers by count: `waiting_write(method, path, body)`."""

    def write(method: str, path: str, body: object = None) -> dict[str, int]:
        answer = http_client.fetch(
            f"{lab.api_url}/api/v1{path}",
            method=method,
            headers={"Content-Type": "application/json", "Prefer": "wait=20", **lab.operator_headers},
            body=None if body is None else json.dumps(body).encode(),
            timeout_s=30,
        )
        assert answer.status < 300, answer.text
        headers = {name.lower(): value for name, value in answer.headers}
        assert headers["preference-applied"] == "wait=20"
        parts = (part.split("=") for part in headers["exitplane-proxies"].split(", "))
        return {name: int(count) for name, count in parts}

    return write


@pytest.fixture
def gateway(lab):
    (found,) = [each for each in lab.api("GET", "/proxies")["items"] if each["role"] == "gateway"]
    return found["id"]


@pytest.fixture
def read_config(lab, gateway, eventually):
    """Read the gateway's configuration, which a busy replica may leave unanswered: `read_config(query, condition)`."""

    def read(query: str = "", condition: Callable[[dict], bool] = lambda config: config["answered"]) -> dict:
        config = {}

        def is_answered() -> bool:
            config.update(lab.api("GET", f"/proxies/{gateway}/config{query}"))
            return condition(config)

        eventually(is_answered)
        return config

    return read


def holds_secrets(config) -> bool:
    """Return whether the gateway holds a certificate, as it does until the listener of a former test is drained."""
    return any(each["type_url"] == names.SECRET and each["resources"] for each in config["types"])


def versions_in_envoy(agent) -> dict[tuple[str, str], str]:
    """Read the versions that an Envoy uses, by type and name."""
    found = {}
    for dump in json.loads(agent.query_admin("/config_dump"))["configs"]:
        for each in dump.get("dynamic_active_clusters", ()):
            found[names.CLUSTER, each["cluster"]["name"]] = each["version_info"]
        for each in dump.get("dynamic_listeners", ()):
            if "active_state" in each:  # a removed one drains
                found[names.LISTENER, each["name"]] = each["active_state"]["version_info"]
        for each in dump.get("dynamic_route_configs", ()):
            found[names.ROUTE, each["route_config"]["name"]] = each["version_info"]
        for each in dump.get("ecds_filters", ()):
            found[names.EXTENSION, each["ecds_filter"]["name"]] = each["version_info"]
    return found


def test_reported_config_equals_envoys_config_dump(lab, read_config):
    config = read_config(condition=lambda config: config["in_sync"] and not holds_secrets(config))
    held = {(each["type_url"], it["name"]): it["accepted"] for each in config["types"] for it in each["resources"]}
    in_use = versions_in_envoy(lab.gateway)
    assert in_use
    assert {key: held.get(key) for key in in_use} == in_use
    assert {type_url for type_url, _ in in_use} == {names.CLUSTER, names.EXTENSION, names.LISTENER, names.ROUTE}
    assert {type_url for type_url, _ in held} == {*(type_url for type_url, _ in in_use), names.ENDPOINT}


def test_waiting_write_reports_the_answers_of_proxies(lab, waiting_write):
    acknowledged = {"acknowledged": 1, "rejected": 0, "pending": 0}
    assert waiting_write("POST", "/pools", {"name": "empty", "fleet": "demo", "country": "ie"}) == acknowledged
    assert "ie" in lab.request(None, tunnel=False).text
    (pool,) = [each for each in lab.api("GET", "/pools")["items"] if each["country"] == "ie"]
    assert waiting_write("DELETE", f"/pools/{pool['id']}") == acknowledged
    assert "ie" not in lab.request(None, tunnel=False).text


def test_rejected_listener_is_shown_and_the_accepted_one_stays(
    lab, gateway, waiting_write, read_config, stat, eventually
):
    before = lab.api("GET", "/fleets/demo")["listener"]
    taken = urlsplit(lab.api_url).port
    assert waiting_write("PATCH", "/fleets/demo", {"listener": {"port": taken}}) == {
        "acknowledged": 0,
        "rejected": 1,
        "pending": 0,
    }
    assert lab.request("gb").status == 200  # the accepted listener
    eventually(lambda: lab.api("GET", "/fleets/demo")["rejections"])
    (rejection,) = lab.api("GET", "/fleets/demo")["rejections"]
    assert (rejection["resource"], rejection["proxy_id"]) == (names.GATEWAY_LISTENER, gateway)
    assert "Address already in use" in rejection["detail"]
    assert lab.api("GET", f"/proxies/{gateway}")["rejections"] == [rejection]

    def change_sets() -> list[tuple[str, list[str]]]:
        (group,) = lab.api("GET", "/fleets/demo/rollout")["groups"]
        found = [(each["released_to"], each["resources"]) for each in group["change_sets"]]
        return [(released_to, [each["name"] for each in resources]) for released_to, resources in found]

    eventually(lambda: change_sets() == [("nobody", ["clients"])])  # stored after the rejection
    config = read_config("?differences=true")
    differing = [it for each in config["types"] for it in each["resources"]]
    assert [(it["name"], it["status"]) for it in differing] == [(names.GATEWAY_LISTENER, "withheld")]
    assert "Address already in use" in differing[0]["reason"]

    status = (*EXITPLANE, "status", "--api", lab.api_url)
    environment = {"EXITPLANE_API_KEY_FILE": str(lab.api_key_file), "COLUMNS": "250"}
    output = lab.processes.run((*status, "--json"), environment=environment, timeout_s=BOUND_S)
    (change,) = json.loads(output)["changes"]
    assert (change["fleet"], change["resource_names"], change["released_to"]) == ("demo", "clients", "nobody")
    assert "Address already in use" in change["reason"]
    assert "Listener (rejected)" in lab.processes.run(status, environment=environment, timeout_s=BOUND_S)

    # neither a restart of the control plane nor a reconnection of the gateway repeats the rejected version
    rejected = stat(lab.gateway, f"{LDS}.update_rejected")
    lab.kill_control_plane()
    lab.start_control_plane()
    pool = lab.api(
        "POST", "/pools", {"name": "later", "fleet": "demo", "country": "fr"}
    )  # other changes are still delivered
    eventually(lambda: "fr" in lab.request(None, tunnel=False).text)
    assert stat(lab.gateway, f"{LDS}.update_rejected") == rejected

    lab.api("PATCH", "/fleets/demo", {"listener": before})
    eventually(lambda: lab.api("GET", "/fleets/demo/rollout")["complete"])
    assert lab.api("GET", "/fleets/demo")["rejections"] == []
    assert lab.request("gb").status == 200
    lab.api("DELETE", f"/pools/{pool['id']}")
    eventually(lambda: "fr" not in lab.request(None, tunnel=False).text)
