"""The combination of several sources and a Geo-IP file: precedence, conflicts and leaks."""

from __future__ import annotations

from agent.egress.consensus import combine, compose_observation
from agent.egress.leak_check import LeakFinding
from agent.egress.types import Location, SeenAddress
from tests.agent.egress.conftest import SEEN

ABROAD = SeenAddress("203.0.113.5", Location("fr"))
UNLOCATED = SeenAddress("198.51.100.9")
NONE = LeakFinding()


def combined(answers, *, hosts=(), locations=None):
    return combine(answers, frozenset(hosts), locations or {})


def test_first_source_wins_and_others_are_a_conflict():
    found = combined([("a", "it cannot be reached"), ("b", SEEN), ("c", ABROAD), ("d", SEEN)])
    assert (found.seen, found.error) == (SEEN, "")
    assert found.conflict == "b sees 198.51.100.9 in us, c sees 203.0.113.5 in fr"


def test_error_lists_reason_of_each_source():
    found = combined([("a", "it answers 500"), ("b", "it names no IP address")])
    assert (found.seen, found.error) == (None, "a: it answers 500; b: it names no IP address")


def test_geo_file_fills_in_missing_country():
    found = combined([("a", UNLOCATED)], locations={"198.51.100.9": Location("us", "Ashburn")})
    assert (found.seen, found.conflict) == (SeenAddress("198.51.100.9", Location("us", "Ashburn")), "")


def test_address_without_country_is_error():
    assert combined([("a", UNLOCATED)]).error == "a: the country of 198.51.100.9 is unknown"
    assert combined([("a", UNLOCATED)]).seen is None


def test_source_wins_over_geo_file():
    found = combined([("a", SEEN)], locations={"198.51.100.9": Location("fr", "Paris")})
    assert found.seen == SEEN
    assert found.conflict == "a sees 198.51.100.9 in us, the Geo-IP file has it in fr"


def test_source_with_country_wins_over_source_without():
    assert combined([("a", UNLOCATED), ("b", SEEN)]).seen == SEEN


def test_messages_are_cut_to_api_limit():
    names = [f"{number}.{'x' * 60}.example" for number in range(20)]
    assert len(combined([(name, "it cannot be reached") for name in names]).error) == 500
    assert len(combined([("a", SEEN), *((name, ABROAD) for name in names)]).conflict) == 500


def test_host_address_seen_by_any_source_is_leak():
    host = SeenAddress("192.0.2.7", Location("us"))
    leak = "its traffic leaves from the host's own address 192.0.2.7"
    assert combined([("a", SEEN), ("b", host)], hosts={"192.0.2.7"}).leak == leak
    assert combined([("a", SEEN)], hosts={"192.0.2.7"}).leak == ""
    # also if its country is unknown
    assert combined([("a", SeenAddress("192.0.2.7"))], hosts={"192.0.2.7"}).leak == leak


def test_error_hides_country_and_keeps_address():
    whole = compose_observation(combined([("a", SEEN)]), NONE, NONE, NONE)
    assert (whole.country, whole.error) == ("us", "")
    for findings in (
        (LeakFinding(error="x"), NONE, NONE),
        (NONE, LeakFinding(error="x"), NONE),
        (NONE, NONE, LeakFinding(error="x")),
    ):
        observation = compose_observation(combined([("a", SEEN)]), *findings)
        assert (observation.address, observation.country, observation.error) == ("198.51.100.9", None, "x")


def test_observation_joins_all_leaks():
    found = compose_observation(
        combined([("a", SEEN)], hosts={"198.51.100.9"}),
        LeakFinding(leak="b"),
        LeakFinding(leak="c"),
        LeakFinding(leak="d"),
    )
    assert found.leak == "its traffic leaves from the host's own address 198.51.100.9; b; c; d"
