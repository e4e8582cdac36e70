"""Tests of every kind of leak: the exit leaves the pool with a reason, and another exit, or none, serves its country."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager

import pytest

from demo import wireguard
from demo.geolocation import HTML, SILENT
from demo.processes import StopStage
from demo.underlay import ip_batch, resolver_file
from tests.e2e.labs import settings_of, started

OUTSIDE_6 = "2001:db8:0:1"
FREQUENT_OBSERVATION = ("--observe-every-s", "0.5", "--observe", f"http://[{OUTSIDE_6}::1]/ipinfo")
"""Options with another source, reachable only by IPv6, which exists only where a test creates it."""


@contextmanager
def with_frequent_observation():
    with started(settings_of("us", "us", "gb", exit_arguments=FREQUENT_OBSERVATION)) as lab:
        yield lab


@pytest.fixture(scope="module")
def lab_opener():
    return with_frequent_observation


@pytest.fixture
def cleanup(lab):
    """A stack of callbacks that undo a test's leak; afterwards every exit must be healthy again."""
    with ExitStack() as stack:
        yield stack
    lab.wait_until_healthy()
    lab.wait_until_serving()


def item(lab, exit_):
    return next(each for each in lab.api("GET", "/exits")["items"] if each["name"] == exit_.name)


def offered(lab, exit_) -> bool:
    return any(exit_.site.address.exploded in line for line in lab.gateway.query_admin("/clusters").splitlines())


def wait_until_removed(lab, exit_, state: str, reason: str, eventually) -> dict:
    """Wait until an exit is in a state for a reason and no gateway has it. Return the exit as the API showed it then.

    On a busy machine a check may be late: then another reason comes first, or the exit is healthy for a moment.
    """
    shown = {}

    def is_removed() -> bool:
        shown.update(item(lab, exit_))
        return shown["state"] == state and reason in shown["state_reason"] and not offered(lab, exit_)

    eventually(is_removed)
    return shown


def request_refused(lab, country: str) -> str:
    answers = [lab.request(country, tunnel=tunnel) for tunnel in (True, False)]
    assert {answer.status for answer in answers} == {503}, [answer.text for answer in answers]
    return answers[0].text


def assert_served_only_by(lab, country: str, exit_) -> None:
    sources = {lab.request(country, tunnel=bool(number % 2)).json()["source"] for number in range(10)}
    assert sources == {exit_.egress_address}


def test_observation_of_an_exit_is_shown(lab, cleanup, eventually):
    for exit_ in lab.exits:
        # on a busy machine no connection of the first measurement may open in time
        eventually(lambda exit_=exit_: item(lab, exit_)["observation"]["rtt_ms"] is not None)
        seen = item(lab, exit_)["observation"]
        resolver = lab.plan.resolver_of(exit_.country)
        assert (seen["address"], seen["country"]) == (exit_.egress_address, exit_.country)
        assert (seen["city"], seen["time_zone"]) == (f"{exit_.country.upper()} City", "Etc/UTC")
        assert seen["resolver"] == f"{resolver} in {exit_.country}"
        assert 0 < seen["rtt_ms"] < 1000
        assert (seen["leak"], seen["error"], seen["conflict"], seen["address_v6"]) == ("", "", "", None)


@pytest.mark.parametrize("number", [0, 2], ids=["one of two", "the only one"])
def test_names_resolved_outside_the_tunnel_are_a_leak(lab, cleanup, eventually, number):
    leaking = lab.exits[number]
    argv = (sys.executable, "-m", "demo.name_servers", lab.host_source, str(lab.plan.name_server))
    outside = lab.processes.start("resolver-outside", StopStage.PAGE, argv)
    cleanup.callback(lab.processes.end, [outside])
    configured = resolver_file(leaking.site)
    cleanup.callback(configured.write_text, configured.read_text())
    configured.write_text(f"nameserver {lab.host_source}\n")
    reason = f"its names are resolved from the host's own address {lab.host_source}"
    shown = wait_until_removed(lab, leaking, "leaking", reason, eventually)
    assert shown["state_reason"] == shown["observation"]["leak"]
    assert shown["observation"]["resolver"] == f"{lab.host_source} in zz"
    if number == 0:
        assert_served_only_by(lab, "us", lab.exits[1])
    else:
        assert "pool gb" in request_refused(lab, "gb")


def test_ipv6_outside_the_tunnel_is_a_leak(lab, cleanup, eventually):
    leaking, plan = lab.exits[0], lab.plan
    ip_batch(plan.internet, f"address add {OUTSIDE_6}::1/64 dev {plan.bridge} nodad")
    cleanup.callback(ip_batch, plan.internet, f"address delete {OUTSIDE_6}::1/64 dev {plan.bridge}")
    argv = (sys.executable, "-m", "demo.internet", f"{OUTSIDE_6}::1:80")
    page = lab.processes.start("page-6", StopStage.PAGE, argv, namespace=plan.internet)
    cleanup.callback(lab.processes.end, [page])
    ip_batch(
        leaking.namespace,
        f"address add {OUTSIDE_6}::2/64 dev {leaking.site.ethernet} nodad",
        f"route add default via {OUTSIDE_6}::1 dev {leaking.site.ethernet}",
    )
    cleanup.callback(
        ip_batch,
        leaking.namespace,
        f"route delete default via {OUTSIDE_6}::1 dev {leaking.site.ethernet}",
        f"address delete {OUTSIDE_6}::2/64 dev {leaking.site.ethernet}",
    )
    ethernet, tunnel = leaking.site.ethernet, leaking.site.tunnel
    reason = f"its IPv6 traffic leaves by {ethernet}, outside its tunnel {tunnel}, from {OUTSIDE_6}::2"
    shown = wait_until_removed(lab, leaking, "leaking", reason, eventually)
    assert shown["state_reason"] == reason
    assert shown["observation"]["address_v6"] == f"{OUTSIDE_6}::2"
    assert_served_only_by(lab, "us", lab.exits[1])


def test_default_route_outside_the_tunnel_is_a_leak(lab, cleanup, eventually):
    leaking, plan = lab.exits[0], lab.plan
    cleanup.callback(ip_batch, leaking.namespace, f"route replace default dev {leaking.site.tunnel}")
    ip_batch(leaking.namespace, f"route replace default via {plan.internet_address} dev {leaking.site.ethernet}")
    ethernet, tunnel, address = leaking.site.ethernet, leaking.site.tunnel, leaking.site.address
    reason = f"its traffic leaves by {ethernet}, outside its tunnel {tunnel}, from {address}"
    wait_until_removed(lab, leaking, "leaking", reason, eventually)
    assert_served_only_by(lab, "us", lab.exits[1])


def test_exit_without_route_into_its_tunnel_is_not_verified(lab, cleanup, eventually):
    astray = lab.exits[0]
    cleanup.callback(ip_batch, astray.namespace, f"route replace default dev {astray.site.tunnel}")
    ip_batch(astray.namespace, f"route delete default dev {astray.site.tunnel}")
    reason = f"no route leads its traffic into its tunnel {astray.site.tunnel}"
    wait_until_removed(lab, astray, "verifying", reason, eventually)
    assert_served_only_by(lab, "us", lab.exits[1])


def test_exit_outside_the_country_of_its_pool_is_not_offered(lab, cleanup, eventually):
    astray = lab.exits[0]
    cleanup.callback(lab.api, "PATCH", f"/exits/{item(lab, astray)['id']}", {"pool": "us"})
    lab.api("PATCH", f"/exits/{item(lab, astray)['id']}", {"pool": "gb"})
    reason = f"its address {astray.egress_address} is in us, and its pool is for gb"
    assert wait_until_removed(lab, astray, "verifying", reason, eventually)["state_reason"] == reason
    assert_served_only_by(lab, "gb", lab.exits[2])
    assert_served_only_by(lab, "us", lab.exits[1])


def test_changed_address_serves_only_after_its_country_is_known(lab, cleanup, eventually):
    moving, plan = lab.exits[2], lab.plan
    tunnel, other = moving.tunnel, str(lab.exits[0].site.egress_address + 12)
    public = wireguard._public(tunnel._client_key)
    allowed = [f"allowed_ip={address}/32" for address in (moving.egress_address, other)]
    wireguard._configure(tunnel.server, moving.site.tunnel_server, f"public_key={public}", *allowed)
    ip_batch(plan.internet, f"route add {other}/32 dev {moving.site.tunnel_server}")
    cleanup.callback(ip_batch, plan.internet, f"route delete {other}/32 dev {moving.site.tunnel_server}")
    ip_batch(
        moving.namespace,
        f"address add {other}/32 dev {moving.site.tunnel}",
        f"route replace default dev {moving.site.tunnel} src {other}",
    )
    cleanup.callback(ip_batch, moving.namespace, f"address delete {other}/32 dev {moving.site.tunnel}")
    cleanup.callback(ip_batch, moving.namespace, f"route replace default dev {moving.site.tunnel}")
    wait_until_removed(lab, moving, "verifying", f"the country of {other} is unknown", eventually)
    assert "pool gb" in request_refused(lab, "gb")

    lab.set_geolocation(f"/ipinfo/{other}", "gb")
    eventually(lambda: item(lab, moving)["state"] == "healthy")
    seen = item(lab, moving)["observation"]
    assert (seen["address"], seen["previous_address"]) == (other, moving.egress_address)
    assert seen["changed_at"].startswith("20")
    eventually(lambda: lab.request("gb").status == 200)
    assert lab.request("gb").json()["source"] == other


def test_first_source_decides_when_geolocations_disagree(lab, cleanup, eventually):
    cleanup.callback(lab.set_geolocation, "/ip-api")
    lab.set_geolocation("/ip-api", "fr")
    gb = lab.exits[2]
    eventually(lambda: item(lab, gb)["state"] == "degraded")
    eventually(lambda: f"{gb.egress_address} in fr" in item(lab, gb)["observation"]["conflict"])
    assert lab.request("gb").status == 200

    cleanup.callback(lab.set_geolocation, "/ipinfo")
    lab.set_geolocation("/ipinfo", "fr")
    eventually(lambda: item(lab, gb)["state"] in {"verifying", "leaking"})
    eventually(lambda: not offered(lab, gb))
    assert "pool gb" in request_refused(lab, "gb")


@pytest.mark.parametrize(
    ("override", "expected"), [(SILENT, "it does not answer in time"), (HTML, "its answer is not JSON")]
)
def test_failed_geolocation_neither_verifies_nor_removes_exits(lab, cleanup, eventually, override, expected):
    exit_ = lab.exits[2]
    for path in ("/ipinfo", "/ip-api"):
        cleanup.callback(lab.set_geolocation, path)
        lab.set_geolocation(path, override)
    log = lab.state_dir / "logs" / f"{exit_.name}.log"
    eventually(lambda: expected in log.read_text())
    assert item(lab, exit_)["state"] == "healthy"
    assert lab.request("gb").status == 200

    # a tunnel that comes up meanwhile has not been observed
    cleanup.callback(exit_.restore_tunnel)
    exit_.kill_tunnel()
    eventually(lambda: item(lab, exit_)["state"] == "unreachable")
    exit_.restore_tunnel()
    shown = wait_until_removed(lab, exit_, "verifying", "", eventually)
    assert "pool gb" in request_refused(lab, "gb")
    eventually(lambda: expected in item(lab, exit_)["observation"]["error"])
    assert shown["observation"]["country"] is None
