"""Tests of changes under load, of clusters alone and of everything at random: no request fails."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle

import pycountry
import pytest
import yaml

from demo.agents import query_admin
from demo.processes import StopStage
from tests.e2e.labs import with_lasting_database
from tests.e2e.test_open_tunnels import downloading, is_still_moving
from tests.e2e.test_xds_variants import envoy_without_agent, use_state_of_the_world
from tests.scale import scaled

STABLE = ("us", "gb")
ROAMING = "jp"
"""The country of the exit that is moved between pools."""
CHANGES = scaled(200)
CHANGERS = 3
"""The number of RandomChangers that work at the same time."""
CDS, LDS, RDS = "cluster_manager.cds", "listener_manager.lds", "rds"


@pytest.fixture(scope="module")
def lab_opener():
    return with_lasting_database


def stats(admin, pattern: str) -> dict[str, int]:
    lines = admin(f"/stats?filter={pattern}&format=text").splitlines()
    return {name: int(value) for name, _, value in (line.rpartition(": ") for line in lines if line)}


def updates(admin) -> Counter[str]:
    """Count the updates of each type that an Envoy applied and rejected."""
    found = stats(admin, r"(cluster_manager\.cds|listener_manager\.lds|rds\..*)\.update_(success|rejected)$")
    applied: Counter[str] = Counter()
    for name, value in found.items():
        kind = next(kind for kind in (CDS, LDS, RDS) if kind in name)
        applied[f"{kind} {name.rpartition('_')[2]}"] += value
    assert {f"{CDS} success", f"{LDS} success", f"{RDS} success"} <= applied.keys()
    return applied


def warming(admin) -> int:
    return stats(admin, "cluster_manager.warming_clusters$")["cluster_manager.warming_clusters"]


def clusters(admin) -> dict[str, dict]:
    """Read the active clusters of pools from Envoy."""
    (dump,) = [
        each for each in json.loads(admin("/config_dump"))["configs"] if each["@type"].endswith(".ClustersConfigDump")
    ]
    # warming clusters are not in use yet
    found = [each["cluster"] for each in dump.get("dynamic_active_clusters", ())]
    return {each["name"]: each for each in found if each["name"].startswith("pool/")}


def routes(admin) -> dict[str, set[str]]:
    """Read the clusters that the routes of each country refer to."""
    (dump,) = [
        each for each in json.loads(admin("/config_dump"))["configs"] if each["@type"].endswith(".RoutesConfigDump")
    ]
    (configuration,) = [each["route_config"] for each in dump["dynamic_route_configs"]]
    otherwise = configuration["virtual_hosts"][0]["matcher"]["on_no_match"][
        "matcher"
    ]  # the branch without a pool and a city
    by_country = otherwise["matcher_tree"]["exact_match_map"]["map"]
    return {
        country: {route["route"]["cluster"] for route in entry["action"]["typed_config"]["routes"]}
        for country, entry in by_country.items()
    }


# -- clusters alone


@contextmanager
def with_delta(lab):
    """Use the gateway's Envoy as its agent runs it, with delta, and yield a function that queries its admin interface."""
    yield lab.gateway.query_admin


@contextmanager
def with_sotw(lab):
    """Run the gateway's Envoy without its agent, with state of the world."""
    (path,) = lab.gateway.state_dir.glob("bootstrap.*")
    with envoy_without_agent(lab, use_state_of_the_world(yaml.safe_load(path.read_text()))) as admin:
        lab.wait_for("Envoy to start", lambda: None if admin.exists() else "no admin interface yet")
        lab.wait_until_serving()
        yield partial(query_admin, admin.parent)


@contextmanager
def newer_control_plane(lab, connect_timeout_s: int):
    """Run a control plane that differs from this checkout only in every pool's cluster, then the original again."""
    program = (
        "import datetime; from xds.translate import clusters; from cli.main import main; "
        f"clusters.CONNECT_TIMEOUT = datetime.timedelta(seconds={connect_timeout_s}); main()"
    )
    lab.stop_control_plane()
    lab.control_plane = lab.processes.start(
        "control-plane",
        StopStage.CONTROL_PLANE,
        (sys.executable, "-c", program, "serve"),
        environment=lab.control_plane_environment,
    )
    try:
        yield
    finally:
        lab.stop_control_plane()
        lab.start_control_plane()


@pytest.mark.parametrize(
    ("served", "timeout_s", "sent"),
    [
        (with_delta, 4, {f"{CDS} success": 1}),
        # on a new stream a version proves nothing of resources by name (rule 16)
        (with_sotw, 5, {f"{CDS} success": 1, f"{RDS} success": 1}),
    ],
)
def test_change_of_only_the_gateways_clusters_does_not_stall(lab, run_load, eventually, served, timeout_s, sent):
    """No field of a pool changes its cluster alone, but an upgraded control plane may change all clusters."""
    with served(lab) as admin:
        before = updates(admin)
        assert {each["connect_timeout"] for each in clusters(admin).values()} == {"3s"}
        with (
            run_load(partial(random.Random(timeout_s).choice, STABLE)) as load,
            downloading(lab, "gb") as download,
            newer_control_plane(lab, timeout_s),
        ):
            eventually(lambda: updates(admin) != before)
            eventually(lambda: {each["connect_timeout"] for each in clusters(admin).values()} == {f"{timeout_s}s"})
            eventually(lambda: warming(admin) == 0)
            count = len(load.answers)
            eventually(lambda: len(load.answers) > count + 60)
            assert is_still_moving(download, eventually), download.error
            assert updates(admin) == before + Counter(sent)
        assert load.other_than(200) == []
        # the original control plane restores its clusters
        eventually(lambda: {each["connect_timeout"] for each in clusters(admin).values()} == {"3s"})


def test_change_of_only_an_exits_cluster_does_not_stall(lab, run_load, eventually):
    (exit_,) = [each for each in lab.exits if each.country == "gb"]
    (found,) = [each for each in lab.api("GET", "/exits")["items"] if each["name"] == exit_.name]
    assert found["egress_address"] is None
    before = updates(exit_.query_admin)
    with run_load(lambda: "gb") as load, downloading(lab, "gb") as download:
        for number, address in zip(range(1, scaled(8) + 1), cycle((exit_.egress_address, None)), strict=False):
            lab.api("PATCH", f"/exits/{found['id']}", {"egress_address": address})
            expected = before + Counter({f"{CDS} success": number})
            eventually(lambda expected=expected: updates(exit_.query_admin) == expected)
            eventually(lambda: warming(exit_.query_admin) == 0)
            count = len(load.answers)
            eventually(lambda count=count: len(load.answers) > count + 20)
            assert is_still_moving(download, eventually), download.error
            assert updates(exit_.query_admin) == expected
    assert load.other_than(200) == []
    assert load.sources() == {"gb": {exit_.egress_address}}


# -- everything at random


class RandomChanger:
    """A source of random changes to its own pools, exits, fleets and listeners."""

    def __init__(self, lab, number: int, codes: list[str], fleet_id: str, roaming: str | None = None) -> None:
        self.done: Counter[str] = Counter()
        self.countries: list[str] = []
        """The countries that its pools serve, or served until a moment ago."""
        self._scene = lab
        self._random = random.Random(number)
        self._number = number
        self.free = codes
        """The countries that it may use next."""
        self._fleet_id = fleet_id
        self._roaming = roaming
        self._stays_in = ""
        self._pools: dict[str, str] = {}
        self._exits: dict[str, str] = {}
        self._fleets: list[str] = []

    def change(self, times: int) -> None:
        for _ in range(times):
            act = self._random.choice(self._possible())
            self.done[act.__name__.strip("_")] += 1
            act()

    def _possible(self) -> list:
        acts = [self._add_fleet]
        if self.free:
            acts += [self._add_pool] * 4
        if self._fleets:
            acts += [self._rename_fleet, self._move_listener, self._remove_fleet]
        if self._pools:
            acts += [self._rename_pool] * 3 + [self._add_exit] * 2
            if self._roaming:
                acts += [self._move_roaming_exit] * 2
        if self._pools and self.free:
            acts += [self._change_country] * 2
        if self._exits:
            acts += [self._rename_exit, self._remove_exit, self._remove_exit]
        if self._removable():
            acts += [self._remove_pool] * 4
        return acts

    def _api(self, method: str, path: str, body: object = None):
        return self._scene.api(method, path, body)

    def _name(self) -> str:
        return f"changer-{self._number}-{self.done.total()}"

    def _take_code(self) -> str:
        return self.free.pop(self._random.randrange(len(self.free)))

    def _add_pool(self) -> None:
        code = self._take_code()
        pool = self._api("POST", "/pools", {"name": self._name(), "fleet": self._fleet_id, "country": code})
        self._pools[pool["id"]] = code
        self.countries = [*self._pools.values()]

    def _rename_pool(self) -> None:
        self._api("PATCH", f"/pools/{self._random.choice([*self._pools])}", {"name": self._name()})

    def _change_country(self) -> None:
        pool, code = self._random.choice([*self._pools]), self._take_code()
        self._api("PATCH", f"/pools/{pool}", {"country": code})
        self.free.append(self._pools[pool])
        self._pools[pool] = code
        self.countries = [*self._pools.values()]

    def _removable(self) -> list[str]:
        """The pools without exits."""
        return [pool for pool in self._pools if pool != self._stays_in and pool not in self._exits.values()]

    def _remove_pool(self) -> None:
        pool = self._random.choice(self._removable())
        self._api("DELETE", f"/pools/{pool}")
        self.free.append(self._pools.pop(pool))

    def _add_exit(self) -> None:
        pool = self._random.choice([*self._pools])
        body = {"name": self._name(), "pool": pool, "address": "192.0.2.250", "port": 8443}
        self._exits[self._api("POST", "/exits", body)["id"]] = pool

    def _rename_exit(self) -> None:
        self._api("PATCH", f"/exits/{self._random.choice([*self._exits])}", {"name": self._name()})

    def _remove_exit(self) -> None:
        exit_ = self._random.choice([*self._exits])
        self._api("DELETE", f"/exits/{exit_}")
        del self._exits[exit_]

    def _move_roaming_exit(self) -> None:
        self._stays_in = self._random.choice([*self._pools])
        self._api("PATCH", f"/exits/{self._roaming}", {"pool": self._stays_in})

    def _add_fleet(self) -> None:
        name = self._name()
        self._api("POST", "/fleets", {"name": name, "listener": {"address": "127.0.0.1", "port": 9}})
        self._fleets.append(name)

    def _rename_fleet(self) -> None:
        old, new = self._random.choice(self._fleets), self._name()
        self._api("PATCH", f"/fleets/{old}", {"name": new})
        self._fleets[self._fleets.index(old)] = new

    def _move_listener(self) -> None:
        port = self._random.randrange(1024, 65536)
        self._api("PATCH", f"/fleets/{self._random.choice(self._fleets)}", {"listener": {"port": port}})

    def _remove_fleet(self) -> None:
        name = self._fleets.pop(self._random.randrange(len(self._fleets)))
        self._api("DELETE", f"/fleets/{name}")

    def undo(self, is_gone: Callable[[str], None]) -> None:
        """Remove everything that it created, and move the roaming exit back.

        `is_gone(pool)` waits until the gateway has removed a pool, because removing more than half of its clusters at once
        would need an approval.
        """
        if self._roaming:
            self._api("PATCH", f"/exits/{self._roaming}", {"pool": ROAMING})
        for exit_ in self._exits:
            self._api("DELETE", f"/exits/{exit_}")
        for pool in self._pools:
            self._api("DELETE", f"/pools/{pool}")
            is_gone(pool)
        for fleet in self._fleets:
            self._api("DELETE", f"/fleets/{fleet}")


def create_changers(lab) -> list[RandomChanger]:
    """Create CHANGERS changers with countries of their own; the first also moves a real exit."""
    codes = sorted({each.alpha_2.lower() for each in pycountry.countries} - {*STABLE, ROAMING})
    random.Random(1).shuffle(codes)
    (roaming,) = [each["id"] for each in lab.api("GET", "/exits")["items"] if each["country"] == ROAMING]
    fleet_id = lab.api("GET", "/fleets/demo")["id"]
    shares = [codes[number * 20 : number * 20 + 20] for number in range(CHANGERS)]
    return [
        RandomChanger(lab, number, share, fleet_id, None if number else roaming) for number, share in enumerate(shares)
    ]


@pytest.mark.timeout(1500)
def test_random_changes_fail_no_request_and_converge(lab, run_load, eventually, record_property):
    admin = lab.gateway.query_admin
    failures = r"^http\.clients\.(no_route|no_cluster|downstream_rq_5xx)$"
    failed, before = stats(admin, failures), updates(admin)
    assert failed.keys() == {f"http.clients.{name}" for name in ("no_route", "no_cluster", "downstream_rq_5xx")}
    changers, chance = create_changers(lab), random.Random(2)
    everywhere = [country for changer in changers for country in changer.free]

    def choose_changing_country() -> str:
        return chance.choice([country for changer in changers for country in changer.countries] or everywhere)

    with (
        run_load(partial(random.Random(3).choice, STABLE)) as steady,
        run_load(choose_changing_country) as roaming_load,
        downloading(lab, "gb") as download,
        ThreadPoolExecutor(CHANGERS) as pool,
    ):
        began = time.monotonic()
        share = [CHANGES // CHANGERS + (number < CHANGES % CHANGERS) for number in range(CHANGERS)]
        for future in [pool.submit(changer.change, times) for changer, times in zip(changers, share, strict=True)]:
            future.result()
        took_s = time.monotonic() - began
        declared = {pool["country"]: {f"pool/{pool['id']}"} for pool in lab.api("GET", "/pools")["items"]}
        eventually(lambda: warming(admin) == 0)
        eventually(lambda: routes(admin) == declared)
        eventually(lambda: clusters(admin).keys() == set().union(*declared.values()))
        assert is_still_moving(download, eventually), download.error

    done = sum((changer.done for changer in changers), Counter())
    answered = Counter(getattr(answer, "status", repr(answer)) for _, answer in roaming_load.answers)
    figures = {
        "changes": dict(done),
        "took_s": took_s,
        "steady": len(steady.answers),
        "roaming_load": dict(answered),
        "applied": dict(updates(admin) - before),
    }
    record_property("figures", figures)
    assert done.total() == CHANGES

    assert steady.other_than(200) == []
    assert steady.sources() == {country: lab.egress_addresses(country) for country in STABLE}
    # a changing country has an exit (200), has none (503), or is not served (404)
    assert roaming_load.answers
    assert not answered.keys() - {200, 404, 503}
    refused = [text for _, text in roaming_load.other_than(200, 404)]
    assert [text for text in refused if "can carry this request now (UH)" not in text] == []
    after = stats(admin, failures)
    assert after["http.clients.no_route"] == failed["http.clients.no_route"]
    assert after["http.clients.no_cluster"] == failed["http.clients.no_cluster"]
    assert after["http.clients.downstream_rq_5xx"] - failed["http.clients.downstream_rq_5xx"] == len(refused)
    applied = updates(admin) - before
    assert applied.keys() == {f"{CDS} success", f"{RDS} success"}

    for changer in changers:
        changer.undo(lambda pool: eventually(lambda: f"pool/{pool}" not in clusters(admin)))
    eventually(lambda: len(routes(admin)) == len(clusters(admin)) == len(lab.countries))
    lab.wait_until_healthy()
    lab.wait_until_serving()
