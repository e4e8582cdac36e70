"""Versions of secrets: equal for all replicas, and of no use to somebody who guesses the content."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from model.entities import Exit, Fleet, Parent, Pool, Proxy, Role
from model.exit_states import ExitState
from model.world import World, put
from xds.snapshot.resource import make_resource
from xds.snapshot.snapshot import build
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.parent_cluster import translate_credentials
from xds.translate.scopes import ExitOverlay

FLEET, POOL, EXIT = UUID(int=1), UUID(int=2), UUID(int=3)


def versions(key: bytes, password: str = "guessable") -> dict[str, str]:
    """Return the versions of an exit's own resources, by type and name."""
    parent = Parent("192.0.2.1", 8888, "exit", password)
    declared = (
        Fleet(FLEET, "demo"),
        Pool(POOL, FLEET, "us", "us"),
        Proxy(EXIT, FLEET, "us-1", Role.EXIT),
        Exit(EXIT, POOL, "us-1", "192.0.2.2", 8443, ExitState.HEALTHY, parent=parent),
    )
    world = replace(World().changed(1, map(put, declared)), secret_key=key)
    resources = build(ExitOverlay(EXIT), world).resources
    return {type_url: each.version for type_url, by_name in resources.items() for each in by_name.values()}


def test_version_of_secret_cannot_be_computed_from_its_content():
    guessed = make_resource(
        names.SECRET, "", encode(translate_credentials(Parent("192.0.2.1", 8888, "exit", "guessable")))
    )
    assert versions(b"key")[names.SECRET] != guessed.version
    assert versions(b"key") == versions(b"key")
    assert versions(b"key")[names.SECRET] != versions(b"other")[names.SECRET]
    assert versions(b"key")[names.SECRET] != versions(b"key", "changed")[names.SECRET]


def test_versions_of_other_resources_have_no_key():
    ours, others = versions(b"key"), versions(b"other")
    assert {type_url for type_url in ours if ours[type_url] != others[type_url]} == {names.SECRET}
