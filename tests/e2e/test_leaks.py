"""Every leak is made, and seen: the exit leaves the pool, says why, and its country is served by another or by nobody."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager

import pytest

from demo import wireguard
from demo.geolocation import HTML, SILENT
from demo.processes import StopStage
from demo.underlay import ip_batch, resolver_file
from tests.e2e.scenes import settings_of, started

OUTSIDE_6 = "2001:db8:0:1"
LOOKING_OFTEN = ("--observe-every-s", "0.5", "--observe", f"http://[{OUTSIDE_6}::1]/ipinfo")
"""One more source, which only IPv6 reaches: there is none unless a test makes it."""


@contextmanager
def looking_often():
    with started(settings_of("us", "us", "gb", exit_arguments=LOOKING_OFTEN)) as scene:
        yield scene


@pytest.fixture(scope="module")
def opener():
    return looking_often


@pytest.fixture
def mended(scene):
    """What undoes a test's leak, last first; afterwards every exit has to be healthy again."""
    with ExitStack() as stack:
        yield stack
    scene.wait_until_healthy()
    scene.wait_until_serving()


def item(scene, exit_):
    return next(each for each in scene.api("GET", "/exits")["items"] if each["name"] == exit_.name)


def offered(scene, exit_) -> bool:
    return any(exit_.site.address.exploded in line for line in scene.gateway.admin("/clusters").splitlines())


def is_taken_out(scene, exit_, state: str, eventually) -> dict:
    """Waits until an exit is in a state and no gateway has it; gives how the API shows it."""
    eventually(lambda: item(scene, exit_)["state"] == state)
    eventually(lambda: not offered(scene, exit_))
    return item(scene, exit_)


def refused(scene, country: str) -> str:
    answers = [scene.ask(country, tunnel=tunnel) for tunnel in (True, False)]
    assert {answer.status for answer in answers} == {503}, [answer.text for answer in answers]
    return answers[0].text


def only_from(scene, country: str, exit_) -> None:
    sources = {scene.ask(country, tunnel=bool(number % 2)).json()["source"] for number in range(10)}
    assert sources == {exit_.egress_address}


def test_what_was_seen_of_an_exit_is_shown(scene, mended):
    for exit_ in scene.exits:
        seen = item(scene, exit_)["observation"]
        resolver = scene.plan.resolver_of(exit_.country)
        assert (seen["address"], seen["country"]) == (exit_.egress_address, exit_.country)
        assert (seen["city"], seen["time_zone"]) == (f"{exit_.country.upper()} City", "Etc/UTC")
        assert seen["resolver"] == f"{resolver} in {exit_.country}"
        assert 0 < seen["rtt_ms"] < 1000
        assert (seen["leak"], seen["trouble"], seen["disagreement"], seen["address_v6"]) == ("", "", "", None)


@pytest.mark.parametrize("number", [0, 2], ids=["one of two", "the only one"])
def test_names_that_are_resolved_beside_the_tunnel_are_a_leak(scene, mended, eventually, number):
    leaking = scene.exits[number]
    argv = (sys.executable, "-m", "demo.name_servers", scene.host_source, str(scene.plan.name_server))
    outside = scene.processes.start("resolver-outside", StopStage.PAGE, argv)
    mended.callback(scene.processes.end, [outside])
    configured = resolver_file(leaking.site)
    mended.callback(configured.write_text, configured.read_text())
    configured.write_text(f"nameserver {scene.host_source}\n")
    shown = is_taken_out(scene, leaking, "leaking", eventually)
    assert shown["state_reason"] == shown["observation"]["leak"]
    assert f"its names are resolved from the host's own address {scene.host_source}" in shown["state_reason"]
    assert shown["observation"]["resolver"] == f"{scene.host_source} in zz"
    if number == 0:
        only_from(scene, "us", scene.exits[1])
    else:
        assert "pool gb" in refused(scene, "gb")


def test_ipv6_beside_the_tunnel_is_a_leak(scene, mended, eventually):
    leaking, plan = scene.exits[0], scene.plan
    ip_batch(plan.internet, f"address add {OUTSIDE_6}::1/64 dev {plan.bridge} nodad")
    mended.callback(ip_batch, plan.internet, f"address delete {OUTSIDE_6}::1/64 dev {plan.bridge}")
    argv = (sys.executable, "-m", "demo.internet", f"{OUTSIDE_6}::1:80")
    page = scene.processes.start("page-6", StopStage.PAGE, argv, namespace=plan.internet)
    mended.callback(scene.processes.end, [page])
    ip_batch(
        leaking.namespace,
        f"address add {OUTSIDE_6}::2/64 dev {leaking.site.ethernet} nodad",
        f"route add default via {OUTSIDE_6}::1 dev {leaking.site.ethernet}",
    )
    mended.callback(
        ip_batch,
        leaking.namespace,
        f"route delete default via {OUTSIDE_6}::1 dev {leaking.site.ethernet}",
        f"address delete {OUTSIDE_6}::2/64 dev {leaking.site.ethernet}",
    )
    shown = is_taken_out(scene, leaking, "leaking", eventually)
    ethernet, tunnel = leaking.site.ethernet, leaking.site.tunnel
    assert shown["state_reason"] == (
        f"its IPv6 traffic leaves by {ethernet}, outside its tunnel {tunnel}, from {OUTSIDE_6}::2"
    )
    assert shown["observation"]["address_v6"] == f"{OUTSIDE_6}::2"
    only_from(scene, "us", scene.exits[1])


def test_a_default_route_beside_the_tunnel_is_a_leak(scene, mended, eventually):
    leaking, plan = scene.exits[0], scene.plan
    mended.callback(ip_batch, leaking.namespace, f"route replace default dev {leaking.site.tunnel}")
    ip_batch(leaking.namespace, f"route replace default via {plan.internet_address} dev {leaking.site.ethernet}")
    shown = is_taken_out(scene, leaking, "leaking", eventually)
    ethernet, tunnel, address = leaking.site.ethernet, leaking.site.tunnel, leaking.site.address
    assert f"its traffic leaves by {ethernet}, outside its tunnel {tunnel}, from {address}" in shown["state_reason"]
    only_from(scene, "us", scene.exits[1])


def test_no_route_into_the_tunnel_is_not_verified(scene, mended, eventually):
    astray = scene.exits[0]
    mended.callback(ip_batch, astray.namespace, f"route replace default dev {astray.site.tunnel}")
    ip_batch(astray.namespace, f"route delete default dev {astray.site.tunnel}")
    shown = is_taken_out(scene, astray, "verifying", eventually)
    assert f"no route leads its traffic into its tunnel {astray.site.tunnel}" in shown["state_reason"]
    only_from(scene, "us", scene.exits[1])


def test_an_exit_in_another_country_than_its_pool_s_is_not_offered(scene, mended, eventually):
    astray = scene.exits[0]
    mended.callback(scene.api, "PATCH", f"/exits/{item(scene, astray)['id']}", {"pool": "us"})
    scene.api("PATCH", f"/exits/{item(scene, astray)['id']}", {"pool": "gb"})
    shown = is_taken_out(scene, astray, "verifying", eventually)
    assert shown["state_reason"] == f"its address {astray.egress_address} is in us, and its pool is for gb"
    only_from(scene, "gb", scene.exits[2])
    only_from(scene, "us", scene.exits[1])


def test_an_address_that_changes_is_told_and_serves_only_once_it_is_known_to_be_in_the_country(
    scene, mended, eventually
):
    moving, plan = scene.exits[2], scene.plan
    tunnel, other = moving.tunnel, str(scene.exits[0].site.egress_address + 12)
    public = wireguard._public(tunnel._client_key)
    allowed = [f"allowed_ip={address}/32" for address in (moving.egress_address, other)]
    wireguard._configure(tunnel.server, moving.site.tunnel_server, f"public_key={public}", *allowed)
    ip_batch(plan.internet, f"route add {other}/32 dev {moving.site.tunnel_server}")
    mended.callback(ip_batch, plan.internet, f"route delete {other}/32 dev {moving.site.tunnel_server}")
    ip_batch(
        moving.namespace,
        f"address add {other}/32 dev {moving.site.tunnel}",
        f"route replace default dev {moving.site.tunnel} src {other}",
    )
    mended.callback(ip_batch, moving.namespace, f"address delete {other}/32 dev {moving.site.tunnel}")
    mended.callback(ip_batch, moving.namespace, f"route replace default dev {moving.site.tunnel}")
    shown = is_taken_out(scene, moving, "verifying", eventually)
    assert f"the country of {other} is unknown" in shown["state_reason"]
    assert "pool gb" in refused(scene, "gb")

    scene.tell_geolocation(f"/ipinfo/{other}", "gb")
    eventually(lambda: item(scene, moving)["state"] == "healthy")
    seen = item(scene, moving)["observation"]
    assert (seen["address"], seen["previous_address"]) == (other, moving.egress_address)
    assert seen["changed_at"].startswith("20")
    eventually(lambda: scene.ask("gb").status == 200)
    assert scene.ask("gb").json()["source"] == other


def test_a_geolocation_that_lies_is_not_hidden_and_the_first_one_s_word_counts(scene, mended, eventually):
    mended.callback(scene.tell_geolocation, "/ip-api")
    scene.tell_geolocation("/ip-api", "fr")
    gb = scene.exits[2]
    eventually(lambda: item(scene, gb)["state"] == "degraded")
    assert f"{gb.egress_address} in fr" in item(scene, gb)["observation"]["disagreement"]
    assert scene.ask("gb").status == 200

    mended.callback(scene.tell_geolocation, "/ipinfo")
    scene.tell_geolocation("/ipinfo", "fr")
    eventually(lambda: item(scene, gb)["state"] in {"verifying", "leaking"})
    eventually(lambda: not offered(scene, gb))
    assert "pool gb" in refused(scene, "gb")


@pytest.mark.parametrize(("mood", "said"), [(SILENT, "it does not answer in time"), (HTML, "its answer is not JSON")])
def test_a_geolocation_that_fails_verifies_nobody_and_takes_out_nobody(scene, mended, eventually, mood, said):
    exit_ = scene.exits[2]
    for path in ("/ipinfo", "/ip-api"):
        mended.callback(scene.tell_geolocation, path)
        scene.tell_geolocation(path, mood)
    log = scene.state_dir / "logs" / f"{exit_.name}.log"
    eventually(lambda: said in log.read_text())
    assert item(scene, exit_)["state"] == "healthy"
    assert scene.ask("gb").status == 200

    # a tunnel that comes up meanwhile has not been seen by anybody
    mended.callback(exit_.restore_tunnel)
    exit_.kill_tunnel()
    eventually(lambda: item(scene, exit_)["state"] == "unreachable")
    exit_.restore_tunnel()
    shown = is_taken_out(scene, exit_, "verifying", eventually)
    assert "pool gb" in refused(scene, "gb")
    eventually(lambda: said in item(scene, exit_)["observation"]["trouble"])
    assert shown["observation"]["country"] is None
