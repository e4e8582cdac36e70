"""The gateways that exits admit, as a secret and a filter of their fleet."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from model.entities import Exit, Fleet, Pool, Proxy, Role, TrustedAuthority
from model.exit_states import ExitState
from model.locality import Locality
from model.world import Change, Kind, World, put
from xds.snapshot.snapshot import build
from xds.translate import names, resource_ids
from xds.translate.affected import affected
from xds.translate.encoding import encode
from xds.translate.json_view import as_json
from xds.translate.resource_ids import ADMISSION_FILTER, GATEWAYS_SECRET
from xds.translate.scopes import ExitAdmission, ExitOverlay, scopes_of

FLEET, OTHER_FLEET = UUID(int=1), UUID(int=2)
POOL = Pool(UUID(int=11), FLEET, "us", "us")
EXIT = Exit(UUID(int=21), POOL.id, "x", "192.0.2.1", 8443, ExitState.HEALTHY)
ENVOY = Proxy(EXIT.id, FLEET, "x", Role.EXIT)
ONE, TWO = (Proxy(UUID(int=number), FLEET, f"gw-{number}", Role.GATEWAY) for number in (31, 32))
FOREIGN = Proxy(UUID(int=33), OTHER_FLEET, "gw", Role.GATEWAY)
ROOT, NEW_ROOT = TrustedAuthority(UUID(int=41), "root\n"), TrustedAuthority(UUID(int=42), "new root\n")
ENTITIES = (Fleet(FLEET, "one"), Fleet(OTHER_FLEET, "two"), POOL, EXIT, ENVOY, ONE, FOREIGN, ROOT)
WORLD = World().changed(1, map(put, ENTITIES))
ADMISSION = ExitAdmission(FLEET).key


def admitted(world: World, fleet_id: UUID = FLEET) -> list[str]:
    context = secret(world, fleet_id)["validation_context"]
    assert {each["san_type"] for each in context["match_typed_subject_alt_names"]} == {"URI"}
    found = [each["matcher"]["exact"] for each in context["match_typed_subject_alt_names"]]
    assert admitted_to_requests(world, fleet_id) == {*found}
    return found


def admitted_to_requests(world: World, fleet_id: UUID) -> set[str]:
    (resource,) = build(ExitAdmission(fleet_id), world).resources[names.EXTENSION].values()
    config = as_json(resource.type_url, resource.body)["typed_config"]
    assert "on_no_match" not in config["matcher"]  # Envoy then denies
    tree = config["matcher"]["matcher_tree"]
    assert tree["input"]["name"] == "envoy.matching.inputs.uri_san"
    actions = tree["exact_match_map"]["map"]
    assert {each["action"]["typed_config"].get("action", "ALLOW") for each in actions.values()} == {"ALLOW"}
    return {*actions}


def secret(world: World, fleet_id: UUID = FLEET) -> dict:
    (resource,) = build(ExitAdmission(fleet_id), world).resources[names.SECRET].values()
    assert resource.name == names.GATEWAYS_SECRET
    return as_json(resource.type_url, resource.body)


def test_exits_admit_the_gateways_of_their_fleet():
    prefix = f"spiffe://exitplane/fleet/{FLEET}/gateway/"
    assert admitted(WORLD.changed(2, [put(TWO)])) == [f"{prefix}{ONE.id}", f"{prefix}{TWO.id}"]
    assert admitted(WORLD, OTHER_FLEET) == [f"spiffe://exitplane/fleet/{OTHER_FLEET}/gateway/{FOREIGN.id}"]


def test_exits_of_fleet_without_gateways_admit_nobody():
    """Envoy would take an empty list for any name."""
    assert admitted(WORLD.changed(2, [Change(Kind.PROXY, ONE.id, None)])) == [
        f"spiffe://exitplane/fleet/{FLEET}/gateway/"
    ]


def test_exits_trust_all_roots():
    both = secret(WORLD.changed(2, [put(NEW_ROOT)]))["validation_context"]["trusted_ca"]
    assert both == {"inline_string": "root\nnew root\n"}


def test_exits_without_an_authority_have_no_secret():
    world = WORLD.changed(2, [Change(Kind.AUTHORITY, ROOT.id, None)])
    assert build(ExitAdmission(FLEET), world).resources.keys() == {names.EXTENSION}


def test_exit_listener_asks_for_both_lists_by_xds():
    listener = as_json(names.LISTENER, encode(ExitOverlay(EXIT.id).translate(WORLD, resource_ids.EXIT_LISTENER)))
    context = listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    assert context["validation_context_sds_secret_config"]["name"] == names.GATEWAYS_SECRET
    assert "ads" in context["validation_context_sds_secret_config"]["sds_config"]
    first = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][0]
    assert first["name"] == names.ADMISSION_FILTER
    assert "ads" in first["config_discovery"]["config_source"]
    assert ADMISSION in {scope.key for scope in scopes_of(ENVOY, WORLD)}


@pytest.mark.parametrize(
    ("change", "fleets", "resources"),
    [
        (put(TWO), [FLEET], {ADMISSION_FILTER, GATEWAYS_SECRET}),
        (Change(Kind.PROXY, ONE.id, None), [FLEET], {ADMISSION_FILTER, GATEWAYS_SECRET}),
        (put(replace(ONE, fleet_id=OTHER_FLEET)), [FLEET, OTHER_FLEET], {ADMISSION_FILTER, GATEWAYS_SECRET}),
        (put(NEW_ROOT), [FLEET, OTHER_FLEET], {GATEWAYS_SECRET}),
        (put(replace(ONE, locality=Locality("eu"))), [], set()),
        (Change(Kind.PROXY, ENVOY.id, None), [], set()),
    ],
)
def test_only_gateways_that_come_or_go_affect_the_list(change, fleets, resources):
    found = affected([change], WORLD, WORLD.changed(2, [change]))
    assert {key: each.declared for key, each in found.items()} == {
        ExitAdmission(fleet_id).key: resources for fleet_id in fleets
    }
