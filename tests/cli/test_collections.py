"""Tests of `exitplane get`, `delete` and `status`, their help, and shell completion."""

from __future__ import annotations

import json

import pytest
import yaml

from api.features.exits.schemas import ExitIn
from api.features.fleets.schemas import FirstListenerIn, FleetIn
from api.features.pools.schemas import PoolIn
from api.features.users.schemas import UserIn
from cli.collections import _COLUMNS, _DELETED_ONE_BY_ONE, _NEVER_DELETED
from client import COLLECTIONS, Client
from tests.cli.conftest import run_main

pytestmark = pytest.mark.postgres


@pytest.fixture
async def demo(api):
    await api.fleets.create(FleetIn(name="demo", listener=FirstListenerIn(address="127.0.0.1", port=8080)))
    await api.pools.create(PoolIn(name="us", fleet="demo", country="us"))
    await api.pools.create(PoolIn(name="de", fleet="demo", country="de"))
    await api.exits.create(ExitIn(name="us-1", fleet="demo", pool="us", address="192.0.2.1", port=8443))
    await api.users.bulk(create=[UserIn(name=f"u{n}", fleet="demo") for n in range(5)])
    return api


def rows(done):
    """Return the cells of a printed table, without its header."""
    assert done.status == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


async def test_get_prints_a_table(demo, exitplane):
    assert rows(await exitplane("get", "pools")) == [["demo", "de", "de", "", ""], ["demo", "us", "us", "", ""]]
    assert rows(await exitplane("get", "fleets"))[0][:2] == ["demo", "127.0.0.1:8080"]


async def test_get_filters_sorts_and_limits(demo, exitplane):
    assert rows(await exitplane("get", "pools", "--filter", "country=us", "--fleet", "demo"))[0][1] == "us"
    assert [row[1] for row in rows(await exitplane("get", "users", "--sort", "-name", "--limit", "2"))] == ["u4", "u3"]
    assert rows(await exitplane("get", "users", "--filter", "name=x*")) == []


async def test_get_prints_json_and_yaml(demo, exitplane):
    made = await demo.exits.read("us-1")
    for form, read in (("--json", json.loads), ("--yaml", yaml.safe_load)):
        found = read((await exitplane("get", "exits", "us-1", form)).out)
        assert (found["id"], found["port"]) == (str(made.id), 8443)
    assert len(json.loads((await exitplane("get", "users", "--json")).out)) == 5


@pytest.mark.parametrize("name", _COLUMNS)
async def test_table_columns_are_fields_of_each_collection(name, api, exitplane):
    assert set(_COLUMNS) == set(COLLECTIONS)
    assert (await exitplane("get", name)).status == 0
    # the items of the page's schema
    answer = next(api.collection(name).operations()).response
    fields = answer.model_fields["items"].annotation.__args__[0].model_fields
    assert set(_COLUMNS[name]) <= set(fields)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("get", "colours"), "there is no collection 'colours'; name one of fleets"),
        (("get", "pools", "none"), "there is no such pool"),
        (("get", "pools", "--filter", "country"), "--filter country: this is not FIELD=VALUE"),
        (("get", "pools", "--filter", "colour=red"), "?colour: there is no such field"),
        (("get", "pools", "--sort", "colour"), "?sort: the list cannot be sorted by this field"),
        (("delete", "colours", "red", "--yes"), "there is no collection 'colours'; name one of fleets"),
        (("delete", "audit-events", "1", "--yes"), "audit-events cannot be deleted"),
        (("delete", "api-keys", "a", "b", "--yes"), "api-keys are deleted one at a time; name only one"),
        (("delete", "pools", "us"), "there is no terminal to ask for confirmation; add --yes"),
        (("delete", "pools", "us", "--yes"), "the pool has exits"),
        (("delete", "pools", "us", "de", "--yes"), "the pool has exits"),
    ],
)
async def test_error_is_one_line_with_its_hint(arguments, expected, demo, exitplane):
    done = await exitplane(*arguments)
    assert (done.status, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert expected in done.err


async def test_delete_of_several_items_is_one_revision_or_none(demo, exitplane, plane):
    refused = await exitplane("delete", "users", "u0", "u1", "nobody", "--yes")
    assert "/delete/2: there is no such user" in refused.err
    assert len((await demo.users.page()).items) == 5
    done = await exitplane("delete", "users", "u0", "u1", "--fleet", "demo", "--yes")
    assert (done.status, done.out) == (0, "deleted u0\ndeleted u1\n")
    events = (await demo.events.page(kind="user")).items
    assert len({event.revision for event in events if event.action == "deleted"}) == 1


async def test_shrinking_delete_is_refused_with_the_approve_option(demo, exitplane):
    await demo.exits.delete("us-1")
    refused = await exitplane("delete", "pools", "us", "de", "--yes")
    assert (refused.status, "--approve shrink" in refused.err) == (1, True)
    assert (await exitplane("delete", "pools", "us", "de", "--yes", "--approve", "shrink")).status == 0


@pytest.mark.parametrize("name", COLLECTIONS)
def test_deletable_collections_match_the_client(name):
    methods = Client("http://x").collection(name)
    assert hasattr(methods, "delete") == (name not in _NEVER_DELETED)
    assert hasattr(methods, "bulk") == (name not in _NEVER_DELETED | _DELETED_ONE_BY_ONE)


@pytest.mark.parametrize(("answer", "left"), [("n", 5), ("y", 4)])
async def test_delete_asks_at_a_terminal(answer, left, demo, exitplane):
    done = await exitplane("delete", "users", "u0", stdin=f"{answer}\n", terminal=True)
    assert "Delete u0 of users?" in done.err
    assert len((await demo.users.page()).items) == left


async def test_status_shows_exits_and_proxies(demo, exitplane):
    done = await exitplane("status")
    assert "us-1" in done.out
    assert "registering" in done.out
    found = json.loads((await exitplane("status", "--json")).out)
    assert ([each["name"] for each in found["exits"]], found["proxies"][0]["role"]) == (["us-1"], "exit")


async def test_get_without_credential_names_the_login(exitplane):
    done = await exitplane("get", "pools", EXITPLANE_API_KEY="")
    assert done.status == 1
    assert "Authorization" in done.err or "login" in done.err


@pytest.mark.parametrize("command", ["get", "delete", "apply", "diff", "export", "status"])
def test_help_has_examples(command):
    done = run_main([command, "--help"], {"COLUMNS": "120"}, None, terminal=False)
    assert done.status == 0
    assert "Usage: exitplane" in done.out
    assert command == "status" or f"exitplane {command} " in done.out.split("For example", 1)[1]


# -- completion --------------------------------------------------------------------------------------------------------


@pytest.fixture
def complete(exitplane):
    """Return the shell's completions of the last word: `await complete("get pools u")`."""

    async def ask(words):
        expected = {"_EXITPLANE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return (await exitplane(**expected)).out.split()

    return ask


async def test_completion_offers_commands_collections_and_options(complete):
    assert "apply" in await complete("exitplane ap")
    assert await complete("exitplane get po") == ["pools"]
    assert "--filter" in await complete("exitplane get pools --fil")


async def test_completion_offers_names_of_items(demo, complete):
    assert await complete("exitplane get pools u") == ["us"]
    assert await complete("exitplane delete users u1") == ["u1"]


async def test_completion_is_silent_without_the_api(exitplane):
    expected = {"_EXITPLANE_COMPLETE": "complete_bash", "COMP_WORDS": "exitplane get pools u", "COMP_CWORD": "3"}
    done = await exitplane(**expected, EXITPLANE_API="http://127.0.0.1:1")
    assert (done.out.strip(), done.err) == ("", "")
