"""Tests of `exitplane apply`, `diff` and `export`."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from api.features.declared.schemas import Declared
from cli.declared.documents import load
from model.tables import ProxyRow, ReplicaRow, SyncRow

pytestmark = pytest.mark.postgres
STATE = """\
fleets:
- name: demo
  listener: {address: 127.0.0.1, port: 8080}
pools:
- {name: us, fleet: demo, country: us}
- {name: "no", fleet: demo, country: no}
exits:
- {name: us-1, fleet: demo, pool: us, address: 192.0.2.1, port: 8443}
users:
- {name: alice, fleet: demo}
"""


@pytest.fixture
def file(tmp_path):
    """Write a file with a text, and return its path: `file(text)`."""

    def write(text):
        path = tmp_path / "state.yaml"
        path.write_text(text)
        return str(path)

    return write


async def test_apply_prints_each_step(exitplane, file):
    done = await exitplane("apply", "-f", file(STATE))
    assert done.status == 0, done.err
    assert done.out.splitlines() == [
        *("+ fleet demo", "+ pool demo/us", "+ pool demo/no", "+ exit demo/us-1", "+ user demo/alice"),
        "5 created, 0 changed, 0 deleted, 0 unchanged; revision 1",
    ]


async def test_repeated_apply_changes_nothing_and_creates_no_revision(exitplane, file):
    await exitplane("apply", "-f", file(STATE))
    done = await exitplane("apply", "-f", "-", stdin=STATE)
    assert done.out == "0 created, 0 changed, 0 deleted, 5 unchanged; revision 1\n"


async def test_export_can_be_applied_again_after_pruning_everything(exitplane, tmp_path):
    await exitplane("apply", "-f", "-", stdin=STATE)
    path = tmp_path / "exported.yaml"
    assert (await exitplane("export", "-o", str(path))).out == ""
    assert (await exitplane("diff", "--prune", "-f", str(path))).status == 0
    nothing = "\n".join(f"{name}: []" for name in Declared.model_fields)
    pruned = await exitplane("apply", "--prune", "--yes", "--approve", "shrink", "-f", "-", stdin=nothing)
    assert "0 created, 0 changed, 6 deleted, 0 unchanged" in pruned.out, pruned.err
    assert (await exitplane("apply", "-f", str(path))).status == 0
    assert (await exitplane("export")).out == path.read_text()


async def test_export_of_one_fleet_omits_others(exitplane, file):
    await exitplane("apply", "-f", "-", stdin=STATE + "---\nfleets: [{name: other}]\n")
    exported = load([file((await exitplane("export", "--fleet", "other", "--json")).out)]).document
    assert ([fleet.name for fleet in exported.fleets], exported.pools) == (["other"], [])


async def test_apply_dry_run_changes_nothing(exitplane, file, api):
    done = await exitplane("apply", "--dry-run", "-f", file(STATE))
    assert done.out.endswith("5 created, 0 changed, 0 deleted, 0 unchanged; nothing was changed (dry run)\n")
    assert (await api.fleets.page()).items == []


# -- differences -------------------------------------------------------------------------------------------------------


async def test_diff_exits_with_1_for_difference_0_for_none_2_for_error(exitplane, file):
    path = file(STATE)
    assert (await exitplane("diff", "-f", path)).status == 1
    await exitplane("apply", "-f", path)
    same = await exitplane("diff", "-f", path)
    assert (same.status, same.out) == (0, "")
    changed = await exitplane("diff", "-f", file(STATE.replace("8443", "8444")))
    assert (changed.status, changed.out) == (1, "~ exit demo/us-1\n    port: 8443 -> 8444\n")
    for text in ("pools: [", STATE.replace("pool: us", "pool: fr")):
        error = await exitplane("diff", "-f", file(text))
        assert (error.status, error.out) == (2, "")
        assert error.err.startswith("exitplane: ")
    away = await exitplane("diff", "-f", path, EXITPLANE_API="http://127.0.0.1:1")
    assert away.status == 2


async def test_diff_configuration_shows_changes_of_each_proxy(exitplane, file, api, enrolled):
    await exitplane("apply", "-f", file(STATE))
    await enrolled("gw-1")
    changed = file(STATE.replace("8080", "8081"))
    report = (await exitplane("diff", "--configuration", "-f", changed)).out
    assert "on gw-1:\n  ~ Listener clients" in report
    assert '-      "port_value": 8080' in report
    assert '+      "port_value": 8081' in report
    found = json.loads((await exitplane("diff", "--configuration", "--json", "-f", changed)).out)
    assert found["steps"][0]["name"] == "demo"
    assert found["configuration"][0]["resources"][0]["change"] == "changed"


# -- deleting ----------------------------------------------------------------------------------------------------------

LESS = "fleets: [{name: demo}]\nusers: []\n"


async def test_prune_without_terminal_needs_yes(exitplane, file, api):
    await exitplane("apply", "-f", file(STATE))
    refused = await exitplane("apply", "--prune", "-f", file(LESS))
    assert (refused.status, refused.err) == (
        1,
        "exitplane: this would delete 1 item, so nothing was changed; check with --dry-run, then add --yes\n",
    )
    assert len((await api.users.page()).items) == 1
    assert (await exitplane("apply", "--prune", "--yes", "-f", file(LESS))).status == 0
    assert (await api.users.page()).items == []
    # an apply that deletes nothing needs no confirmation
    assert (await exitplane("apply", "--prune", "-f", file(LESS))).status == 0


@pytest.mark.parametrize(("answer", "left"), [("n", 1), ("y", 0)])
async def test_prune_asks_at_a_terminal(answer, left, exitplane, file, api):
    await exitplane("apply", "-f", file(STATE))
    done = await exitplane("apply", "--prune", "-f", file(LESS), stdin=f"{answer}\n", terminal=True)
    assert "- user demo/alice\nDelete 1 item?" in done.err
    assert len((await api.users.page()).items) == left


async def test_shrinking_apply_is_refused_with_the_approve_option(exitplane, file):
    await exitplane("apply", "-f", file(STATE))
    pruned = file("fleets: [{name: demo}]\npools: []\nexits: []\n")
    refused = await exitplane("apply", "--prune", "--yes", "-f", pruned)
    assert refused.status == 1
    assert "0 of 2 pools" in refused.err
    assert "--approve shrink" in refused.err
    assert (await exitplane("apply", "--prune", "--yes", "--approve", "shrink", "-f", pruned)).status == 0


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("country: us", "country: zz", "state.yaml:5: country: this is not a country code"),
        ("pool: us", "pool: fr", "state.yaml:8: pool: the fleet demo has no such pool"),
        ("country: no", "country: us", "state.yaml:6: country: the fleet has a pool for this country"),
        ('name: "no"', "name: us", "state.yaml:6: name: the document has this pool twice"),
        ("alice, fleet: demo", "alice, fleet: nowhere", "state.yaml:10: fleet: there is no such fleet"),
    ],
)
async def test_refused_apply_names_file_line_field_value_and_hint(old, new, expected, exitplane, file, api):
    done = await exitplane("apply", "-f", file(STATE.replace(old, new)))
    assert (done.status, done.out) == (1, "")
    assert expected in done.err
    assert '(it is "' in done.err
    assert "; " in done.err
    assert (await api.fleets.page()).items == []


async def test_apply_reports_a_missing_file(exitplane):
    done = await exitplane("apply", "-f", "/no/such.yaml")
    assert (done.status, done.err) == (
        1,
        "exitplane: /no/such.yaml cannot be read (No such file or directory); give another file with -f\n",
    )


# -- with the proxies --------------------------------------------------------------------------------------------------


@pytest.fixture
def enrolled(database, api, clock):
    """Enrol a gateway: `await enrolled(name)`; with `rejects=` it is connected, and rejects everything with this text."""

    async def add(name, *, rejects=None):
        fleet = await api.fleets.read("demo")
        proxy = ProxyRow(fleet_id=fleet.id, name=name, role="gateway", created_at=clock())
        replica = ReplicaRow(id=uuid4(), revision=1_000, seen_at=datetime.now(UTC))
        async with database.session() as session:
            session.add_all([proxy, replica])
            if rejects is not None:
                at = {"wanted_at": clock(), "rejected_at": clock(), "sent_at": clock()}
                revisions = dict.fromkeys(("wanted_revision", "sent_revision", "rejected_revision"), 1_000)
                kind = "type.googleapis.com/envoy.config.listener.v3.Listener"
                row = SyncRow(proxy_id=proxy.id, type_url=kind, replica=replica.id, detail=rejects, **revisions, **at)
                session.add(row)

    return add


async def test_apply_exits_with_3_and_prints_rejections(exitplane, file, enrolled):
    await exitplane("apply", "-f", file(STATE))
    await enrolled("gw-1", rejects="the address is taken")
    done = await exitplane("apply", "--wait", "1", "-f", file(STATE.replace("8080", "8081")))
    assert done.status == 3
    assert done.out.endswith("revision 2\nproxies: 0 acknowledged, 1 rejected, 0 pending\n")
    assert done.err == "demo/gw-1 rejects Listener: the address is taken\n"


async def test_apply_wait_prints_the_answers_of_proxies(exitplane, file):
    done = await exitplane("apply", "--wait", "1", "-f", file(STATE))
    assert (done.status, done.out.splitlines()[-1]) == (0, "proxies: 0 acknowledged, 0 rejected, 0 pending")


async def test_apply_prints_json(exitplane, file):
    done = await exitplane("apply", "--json", "--wait", "1", "-f", file(STATE))
    report = json.loads(done.out)
    assert (len(report["steps"]), report["revision"], report["proxies"]["pending"], report["dry_run"]) == (
        5,
        1,
        0,
        False,
    )
    tried = json.loads((await exitplane("apply", "--json", "--dry-run", "-f", file(STATE))).out)
    assert (tried["unchanged"], tried["revision"], tried["dry_run"]) == (5, None, True)


async def test_concurrent_applies_all_succeed(api, file):
    documents = [load([file(STATE.replace("8443", str(8443 + n % 2)))]).document for n in range(8)]
    replies = await asyncio.gather(*(api.declared.apply(document) for document in documents))
    assert all(reply.revision for reply in replies)
    assert (await api.exits.read("us-1")).port in {8443, 8444}
