"""What operators see of real Envoys: who has a change, what each holds, and why one does not."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest

from demo import http_client
from demo.agents import EXITPLANE
from xds.translate import names

LDS = "listener_manager.lds"


@pytest.fixture
def waiting(scene):
    """`waiting(method, path, body)`: a write that waits for the proxies; what its reply says of them."""

    def write(method: str, path: str, body: object = None) -> dict[str, int]:
        answer = http_client.fetch(
            f"{scene.api_url}/api/v1{path}",
            method=method,
            headers={"Content-Type": "application/json", "Prefer": "wait=20", **scene.operator_headers},
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
def gateway(scene):
    (found,) = [each for each in scene.api("GET", "/proxies")["items"] if each["role"] == "gateway"]
    return found["id"]


def versions_in_envoy(agent) -> dict[tuple[str, str], str]:
    """Version by type and name of what an Envoy says that it uses."""
    found = {}
    for dump in json.loads(agent.admin("/config_dump"))["configs"]:
        for each in dump.get("dynamic_active_clusters", ()):
            found[names.CLUSTER, each["cluster"]["name"]] = each["version_info"]
        for each in dump.get("dynamic_listeners", ()):
            found[names.LISTENER, each["name"]] = each["active_state"]["version_info"]
        for each in dump.get("dynamic_route_configs", ()):
            found[names.ROUTE, each["route_config"]["name"]] = each["version_info"]
        for each in dump.get("ecds_filters", ()):
            found[names.EXTENSION, each["ecds_filter"]["name"]] = each["version_info"]
    return found


def test_what_a_gateway_is_said_to_hold_is_what_its_envoy_uses(scene, gateway, eventually):
    eventually(lambda: scene.api("GET", f"/proxies/{gateway}/config")["in_sync"])
    config = scene.api("GET", f"/proxies/{gateway}/config")
    held = {(each["type_url"], it["name"]): it["accepted"] for each in config["types"] for it in each["resources"]}
    in_use = versions_in_envoy(scene.gateway)
    assert in_use
    assert {key: held.get(key) for key in in_use} == in_use
    assert {type_url for type_url, _ in in_use} == {names.CLUSTER, names.EXTENSION, names.LISTENER, names.ROUTE}
    assert {type_url for type_url, _ in held} == {*(type_url for type_url, _ in in_use), names.ENDPOINT}


def test_a_write_that_waits_says_who_has_it(scene, gateway, waiting):
    (pool,) = [each for each in scene.api("GET", "/pools")["items"] if each["country"] == "gb"]
    assert waiting("PATCH", f"/pools/{pool['id']}", {"country": "ie"}) == {
        "acknowledged": 1,
        "rejected": 0,
        "pending": 0,
    }
    assert scene.ask("ie").status == 200
    assert waiting("PATCH", f"/pools/{pool['id']}", {"country": "gb"})["acknowledged"] == 1
    assert scene.ask("gb").status == 200


def test_what_envoy_rejects_is_shown_and_the_last_accepted_version_stays_until_it_is_mended(
    scene, gateway, waiting, stat, eventually
):
    before = scene.api("GET", "/fleets/demo")["listener"]
    taken = urlsplit(scene.api_url).port
    assert waiting("PATCH", "/fleets/demo", {"listener": {"port": taken}}) == {
        "acknowledged": 0,
        "rejected": 1,
        "pending": 0,
    }
    assert scene.ask("gb").status == 200  # the listener that it had
    eventually(lambda: scene.api("GET", "/fleets/demo")["rejections"])
    (rejection,) = scene.api("GET", "/fleets/demo")["rejections"]
    assert (rejection["resource"], rejection["proxy_id"]) == (names.GATEWAY_LISTENER, gateway)
    assert "Address already in use" in rejection["detail"]
    assert scene.api("GET", f"/proxies/{gateway}")["rejections"] == [rejection]
    (group,) = scene.api("GET", "/fleets/demo/rollout")["groups"]
    (change_set,) = group["change_sets"]
    assert (change_set["released_to"], [each["name"] for each in change_set["resources"]]) == ("nobody", ["clients"])
    config = scene.api("GET", f"/proxies/{gateway}/config?differences=true")
    differing = [it for each in config["types"] for it in each["resources"]]
    assert [(it["name"], it["status"]) for it in differing] == [(names.GATEWAY_LISTENER, "withheld")]
    assert "Address already in use" in differing[0]["reason"]

    status = (*EXITPLANE, "status", "--api", scene.api_url)
    environment = {"EXITPLANE_API_KEY_FILE": str(scene.api_key_file)}
    said = scene.processes.run((*status, "--json"), environment=environment)
    (change,) = json.loads(said)["changes"]
    assert (change["fleet"], change["what"], change["released_to"]) == ("demo", "clients", "nobody")
    assert "Address already in use" in change["reason"]
    assert "Listener (rejected)" in scene.processes.run(status, environment=environment)

    # neither a restart of the control plane nor the gateway's coming back has it tried again
    rejected = stat(scene.gateway, f"{LDS}.update_rejected")
    scene.kill_control_plane()
    scene.start_control_plane()
    pool = scene.api("POST", "/pools", {"name": "later", "fleet": "demo", "country": "fr"})  # what is fine goes its way
    eventually(lambda: "fr" in scene.ask(None, tunnel=False).text)
    assert stat(scene.gateway, f"{LDS}.update_rejected") == rejected

    scene.api("PATCH", "/fleets/demo", {"listener": before})
    eventually(lambda: scene.api("GET", "/fleets/demo/rollout")["complete"])
    assert scene.api("GET", "/fleets/demo")["rejections"] == []
    assert scene.ask("gb").status == 200
    scene.api("DELETE", f"/pools/{pool['id']}")
    eventually(lambda: "fr" not in scene.ask(None, tunnel=False).text)
