"""The steps of docker-compose.yml, and its agreement with the plan of addresses."""

from __future__ import annotations

import base64
import os
import re
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.vpn.wireguard.wg_quick import parse_wg_quick
from demo import compose, provider
from demo.compose import Agent, gluetun_role, read_plan, run_step, set_up, set_up_gluetun, write_token
from demo.errors import LabError

ROOT = Path(__file__).parents[2]
OBSERVABILITY = ROOT / "deploy/observability"
NET = "10.9.8"
PLAN = read_plan({"EXITPLANE_NET": NET})
FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = {
    name: yaml.safe_load(yaml.dump(each).replace("${EXITPLANE_NET:-10.177.0}", NET))
    for name, each in FILE["services"].items()
}


class FakeApi:
    """An API that has these proxies or API keys, and makes join tokens and keys."""

    def __init__(self, *proxies: str) -> None:
        self.proxies = proxies
        self.made: list[dict] = []
        self.deleted: list[str] = []

    async def list(self, _collection: str) -> AsyncIterator[dict]:
        for name in self.proxies:
            yield {"name": name, "id": name}

    async def create(self, _collection: str, body: dict) -> dict:
        self.made.append(body)
        return {"token": f"token {len(self.made)}", "key": f"key {len(self.made)}"}

    async def delete(self, _collection: str, ref: str) -> None:
        self.deleted.append(ref)


@pytest.fixture
def join(monkeypatch, tmp_path):
    monkeypatch.setattr(compose, "JOIN", tmp_path)
    return tmp_path


def agent_options(service: str) -> dict[str, str]:
    prefix = "EXITPLANE_AGENT_"
    given = SERVICES[service]["environment"]
    return {name.removeprefix(prefix).lower(): value for name, value in given.items() if name.startswith(prefix)}


def test_exits_of_compose_file_are_those_of_the_plan():
    for site in PLAN.sites:
        options, service = agent_options(site.name), SERVICES[site.name]
        assert (options["name"], options["pool"], options["address"]) == (site.name, site.country, str(site.address))
        assert (options["tunnel"], options["token_file"]) == (f"/accounts/{site.name}.conf", f"/join/{site.name}.token")
        assert service["networks"]["exitplane"]["ipv4_address"] == str(site.address)
        assert options["probe"] == f"{PLAN.page_address}:{PLAN.page_port}"
    assert SERVICES["provider"]["networks"]["exitplane"]["ipv4_address"] == str(PLAN.internet_address)
    assert agent_options("gateway")["name"] == compose.GATEWAY
    assert agent_options("vpn-1")["name"] == compose.GLUETUN_EXIT
    assert agent_options("vpn-1")["pool"] == compose.GLUETUN_POOL


def test_addresses_of_compose_file_are_distinct():
    lasting = [each for name, each in SERVICES.items() if name != "gluetun-setup"]  # begins when `setup` has ended
    addresses = [
        each["networks"]["exitplane"]["ipv4_address"] for each in lasting if "exitplane" in (each.get("networks") or {})
    ]
    assert len(addresses) == len(set(addresses)) >= 9


def test_published_ports_are_distinct_and_on_loopback():
    published = [port for each in SERVICES.values() for port in each.get("ports", ())]
    assert len(published) == 5
    assert all(port.startswith("127.0.0.1:${EXITPLANE_") for port in published)
    numbers = [re.search(r"-(\d+)}", port)[1] for port in published]
    assert len(set(numbers)) == len(numbers)


def test_metrics_and_spans_meet_what_collects_them():
    """Agents name the collector by its address, because exits ask no resolver. Every exit and gateway serves metrics."""
    collector = SERVICES["collector"]["networks"]["exitplane"]["ipv4_address"]
    agents = [name for name, each in SERVICES.items() if "EXITPLANE_AGENT_NAME" in (each.get("environment") or {})]
    assert len(agents) == 6
    for name in agents:
        options = agent_options(name)
        assert options["otlp"] == f"{collector}:4317"
        host, port = options["metrics_listen"].split(":")
        own = (SERVICES[name].get("networks") or {}).get("exitplane", {}).get("ipv4_address", "0.0.0.0")
        assert (host, port) == (own, "9902")
    assert "9902" in SERVICES["gluetun"]["environment"]["FIREWALL_INPUT_PORTS"].split(",")
    plane = SERVICES["control-plane"]["environment"]
    assert plane["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://{collector}:4317"
    (job,) = yaml.safe_load((OBSERVABILITY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["http_sd_configs"][0]["url"].startswith("https://control-plane:8000/")
    assert "control-plane" in plane["EXITPLANE_API_TLS_HOSTS"].split(",")


def test_mounted_files_of_observability_exist():
    mounted = [
        each.split(":")[0]
        for service in SERVICES.values()
        for each in service.get("volumes", ())
        if each.startswith("./")
    ]
    assert len(mounted) == 6
    assert all((ROOT / each).is_dir() for each in mounted)


async def test_key_of_prometheus_is_made_once_and_again_when_it_is_lost(monkeypatch, join, tmp_path):
    scrape = tmp_path / "scrape"
    scrape.mkdir()
    (join / "ca.pem").write_text("authority")
    api = FakeApi()

    @asynccontextmanager
    async def open_client():
        yield api

    monkeypatch.setattr(compose, "SCRAPE", scrape)
    monkeypatch.setattr(compose, "PROMETHEUS_USER", os.getuid())
    monkeypatch.setattr(compose, "_open_client", open_client)
    await compose.set_up_observability()
    await compose.set_up_observability()
    assert api.made == [{"name": "prometheus", "role": "viewer", "scopes": ["discovery:read"]}]
    assert (scrape / "exitplane.key").read_text() == "key 1"
    assert (scrape / "exitplane.key").stat().st_mode & 0o777 == 0o600
    assert (scrape / "ca.pem").read_text() == "authority"

    (scrape / "exitplane.key").unlink()
    api.proxies = ("other", "prometheus")
    await compose.set_up_observability()
    assert (api.deleted, len(api.made)) == (["prometheus"], 2)


def test_services_hold_no_rights_that_they_do_not_need():
    for name, service in SERVICES.items():
        if name == "gluetun":  # an image of somebody else, which says what it needs
            continue
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] in {"no", "on-failure:3"}, name
        assert "mem_limit" in service, name
        assert "depends_on" not in service, name
        assert not re.search("(?i)password: |token: |_key: ", yaml.dump(service.get("environment"))), name


@pytest.mark.parametrize("net", ["", "10.9", "10.9.8.0", "10.9.256", "net"])
def test_network_that_is_none_is_refused_with_a_hint(net):
    with pytest.raises(LabError, match=rf"EXITPLANE_NET is '{net}'; write three numbers"):
        read_plan({"EXITPLANE_NET": net})


def test_account_has_matching_keys_and_survives_a_restart(tmp_path):
    servers, customers = tmp_path / "servers", tmp_path / "customers"
    servers.mkdir()
    customers.mkdir()
    provider.write_accounts(PLAN, servers, customers)
    files = {each.name: each.read_text() for each in sorted(customers.iterdir())}
    assert sorted(files) == ["gb-1.conf", "jp-1.conf", "us-1.conf", "us-2.conf"]
    assert {each.stat().st_mode & 0o777 for each in customers.iterdir()} == {0o600}

    tunnel = parse_wg_quick(files["jp-1.conf"], "jp-1.conf")
    assert tunnel.addresses == (IPv4Interface("198.51.100.4/32"),)
    assert (tunnel.resolvers, str(tunnel.main_peer.endpoint)) == (("203.0.113.6",), f"{NET}.14:51823")
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(tunnel.private_key)).public_key()
    assert base64.b64encode(key.public_bytes_raw()).decode() in (servers / "jp-1.conf").read_text()
    provider.write_accounts(PLAN, servers, customers)
    assert {each.name: each.read_text() for each in sorted(customers.iterdir())} == files

    provider.write_accounts(read_plan({"EXITPLANE_NET": "10.9.7"}), servers, customers)
    assert "Endpoint = 10.9.7.14:51823\n" in (customers / "jp-1.conf").read_text()


async def test_token_is_for_its_agent_alone_and_readable_by_it(join):
    api, agent = FakeApi("us-2"), Agent("us-1", "exit", os.getuid())
    await write_token(api, agent)
    assert api.made == [{"name": "us-1", "fleet": "demo", "role": "exit", "proxy": "us-1", "takes_over": False}]
    assert (join / "us-1.token").read_text() == "token 1\n"
    assert (join / "us-1.token").stat().st_mode & 0o777 == 0o600


async def test_registered_agent_gets_a_token_only_to_be_taken_over(join):
    api, agent = FakeApi("us-1"), Agent("us-1", "exit", os.getuid())
    await write_token(api, agent)
    assert api.made == []
    await write_token(api, agent, takes_over=True)
    assert [each["takes_over"] for each in api.made] == [True]


async def test_token_is_made_anew_before_it_expires(join):
    api, agent = FakeApi(), Agent("us-1", "exit", os.getuid())
    await write_token(api, agent)
    await write_token(api, agent)
    assert len(api.made) == 1
    os.utime(join / "us-1.token", (0, 0))
    await write_token(api, agent)
    assert len(api.made) == 2


async def test_unknown_agent_is_not_taken_over():
    with pytest.raises(LabError, match="there is no agent us-9; name gw-1, us-1, us-2, gb-1, jp-1"):
        await set_up(PLAN, ["us-9"])


async def test_missing_gluetun_settings_are_named_together():
    with pytest.raises(
        LabError, match=r"^VPN_SERVICE_PROVIDER, GLUETUN_COUNTRY: no value in \.env; copy deploy/gluetun.env"
    ):
        await set_up_gluetun({"SERVER_COUNTRIES": "Japan", "GLUETUN_COUNTRY": ""})


def test_gluetun_role_admits_the_key_to_what_the_agent_calls():
    (role,) = tomllib.loads(gluetun_role("secret"))["roles"]
    assert (role["auth"], role["apikey"]) == ("apikey", "secret")
    assert "GET /v1/vpn/status" in role["routes"]


def test_unknown_step_is_refused():
    with pytest.raises(LabError, match="there is no step 'stop'"):
        run_step("stop", ())
