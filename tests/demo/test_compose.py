"""The steps of docker-compose.yml, and its agreement with the plan of addresses."""

from __future__ import annotations

import base64
import os
import re
import tomllib
from collections.abc import AsyncIterator
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
NET = "10.9.8"
PLAN = read_plan({"EXITPLANE_NET": NET})
FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = {
    name: yaml.safe_load(yaml.dump(each).replace("${EXITPLANE_NET:-10.177.0}", NET))
    for name, each in FILE["services"].items()
}


class FakeApi:
    """An API that has these proxies, and makes join tokens."""

    def __init__(self, *proxies: str) -> None:
        self.proxies = proxies
        self.made: list[dict] = []

    async def list(self, _collection: str) -> AsyncIterator[dict]:
        for name in self.proxies:
            yield {"name": name}

    async def create(self, _collection: str, body: dict) -> dict:
        self.made.append(body)
        return {"token": f"token {len(self.made)}"}


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
