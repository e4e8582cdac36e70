"""The policy of containers, and the secret files of fleets."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from keeper.containers.container_spec import PoolSlot, SpecContext, creation_body
from keeper.containers.errors import EngineError
from keeper.containers.secret_files import check_secret_files
from model.container_policy import BadContainerPolicy, ContainerPolicy, read_policy
from model.stored_containers import ContainerSettings

POLICY = """
images = ["registry.example/exit@sha256:*"]

[fleets.red]
images = ["registry.example/red/*:3.*"]
networks = ["red-exits"]
commands = [["run", "--fast"]]
environment = ["PROVIDER", "WIREGUARD_*"]
capabilities = ["NET_RAW"]
ports = ["20000-20003", "30000"]
"""
PINNED = ContainerSettings(1, 2, "registry.example/exit@sha256:0123")


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "policy.toml").write_text(POLICY)
    return read_policy(tmp_path / "policy.toml")


def refused(policy: ContainerPolicy, fleet: str, **fields) -> list[tuple[str, str]]:
    return [(each.field, each.value) for each in policy.refusals(fleet, replace(PINNED, **fields))]


ALLOWED = [
    {"image": "registry.example/red/exit:3.1"},
    {"network": "red-exits"},
    {"command": ("run", "--fast")},
    {"environment": {"PROVIDER": "x", "WIREGUARD_MTU": "1420"}},
    {"capabilities": ("NET_ADMIN", "NET_RAW")},
    {"address": "203.0.113.5", "port": 20_002},
    {"address": "203.0.113.5", "port": 30_000, "maximum": 1},
]


@pytest.mark.parametrize("fields", ALLOWED)
def test_fleet_uses_what_is_allowed_and_others_do_not(fields, policy):
    assert refused(policy, "red", **fields) == []
    (only,) = refused(policy, "blue", **fields)[:1]
    assert only[0] in {*fields, "port"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image": "registry.example/red/exit:2"}, ("image", "registry.example/red/exit:2")),
        ({"image": "registry.example/red/x/exit:3.1"}, ("image", "registry.example/red/x/exit:3.1")),
        ({"image": "registry.example/red/exit:3.1@sha256:00"}, ("image", "registry.example/red/exit:3.1@sha256:00")),
        ({"image": "evil/registry.example/exit@sha256:0"}, ("image", "evil/registry.example/exit@sha256:0")),
        ({"network": "blue-exits"}, ("network", "blue-exits")),
        ({"command": ("run", "--fast", "-x")}, ("command", "run --fast -x")),
        ({"command": ("run --fast",)}, ("command", "run --fast")),
        ({"environment": {"LD_PRELOAD": "/x"}}, ("environment", "LD_PRELOAD")),
        ({"capabilities": ("NET_BIND_SERVICE",)}, ("capabilities", "NET_BIND_SERVICE")),
        ({"address": "203.0.113.5", "port": 20_003}, ("port", "20004")),
        ({"address": "203.0.113.5", "port": 22}, ("port", "22")),
    ],
)
def test_what_is_not_allowed_is_refused(fields, expected, policy):
    assert refused(policy, "red", **fields) == [expected]


def test_every_fleet_may_use_the_pinned_image_and_its_agents_options(policy):
    assert refused(policy, "blue", environment={"EXITPLANE_AGENT_TUNNEL": "/run/secrets/x"}) == []


def test_nothing_is_allowed_without_a_file():
    assert refused(read_policy(None), "red") == [("image", PINNED.image)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("images = ", "not TOML"),
        ('image = ["x"]', "image"),
        ('[fleets.red]\nports = ["0-5"]', "fleets.red.ports.0"),
        ("images = [1]", "images.0"),
    ],
)
def test_bad_policy_is_refused_with_its_place(text, reason, tmp_path):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(BadContainerPolicy, match=reason) as error:
        read_policy(tmp_path / "policy.toml")
    assert error.value.hint


def test_missing_policy_file_is_refused(tmp_path):
    with pytest.raises(BadContainerPolicy, match="cannot be read"):
        read_policy(tmp_path / "policy.toml")


# -- secret files ------------------------------------------------------------------------------------------------------

SECRET = replace(PINNED, secrets=("wg.conf",))


@pytest.fixture
def context(tmp_path):
    for fleet in ("red", "blue"):
        (tmp_path / fleet).mkdir()
        (tmp_path / fleet / "wg.conf").write_text(fleet)
    return SpecContext("i", "http://plane", tmp_path, sees_secrets=True)


def test_secrets_of_one_name_are_files_of_different_fleets(context, tmp_path):
    for fleet in ("red", "blue"):
        own = context.for_fleet(fleet)
        check_secret_files(SECRET, own)
        slot = PoolSlot(UUID(int=1), 1, "x")
        assert creation_body(SECRET, slot, own)["HostConfig"]["Binds"] == [
            f"{tmp_path}/{fleet}/wg.conf:/run/secrets/wg.conf:ro"
        ]


@pytest.mark.parametrize("name", ["../blue/wg.conf", "/etc/shadow", "..", ".", "", "link", "folder/wg.conf", "none"])
def test_secret_outside_the_folder_of_the_fleet_is_refused(name, context, tmp_path):
    (tmp_path / "red" / "link").symlink_to(tmp_path / "blue" / "wg.conf")
    (tmp_path / "red" / "folder").symlink_to(tmp_path / "blue")
    with pytest.raises(EngineError) as error:
        check_secret_files(replace(PINNED, secrets=(name,)), context.for_fleet("red"))
    assert error.value.hint


def test_folder_of_a_fleet_that_is_a_link_is_refused(context, tmp_path):
    (tmp_path / "green").symlink_to(tmp_path / "blue")
    with pytest.raises(EngineError, match="not a folder"):
        check_secret_files(SECRET, context.for_fleet("green"))


def test_names_keep_to_the_folder_at_an_engine_elsewhere(context):
    elsewhere = replace(context, sees_secrets=False).for_fleet("red")
    check_secret_files(replace(PINNED, secrets=("none",)), elsewhere)
    with pytest.raises(EngineError):
        check_secret_files(replace(PINNED, secrets=("../blue/wg.conf",)), elsewhere)
