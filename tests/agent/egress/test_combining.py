"""Several sources, and a Geo-IP file: whose word counts, what they say differently, and what is a leak."""

from __future__ import annotations

from agent.egress.consensus import combine, compose
from agent.egress.finding import LeakFinding
from agent.egress.types import Location, SeenAddress
from tests.agent.egress.conftest import SEEN

ABROAD = SeenAddress("203.0.113.5", Location("fr"))
PLACELESS = SeenAddress("198.51.100.9")
NONE = LeakFinding()


def of(answers, *, hosts=(), places=None):
    return combine(answers, frozenset(hosts), places or {})


def test_sources_that_disagree_are_told_of_and_the_first_counts():
    found = of([("a", "it cannot be reached"), ("b", SEEN), ("c", ABROAD), ("d", SEEN)])
    assert (found.sight, found.trouble) == (SEEN, "")
    assert found.told == "b sees 198.51.100.9 in us, c sees 203.0.113.5 in fr"


def test_without_any_source_the_trouble_is_that_of_each():
    found = of([("a", "it answers 500"), ("b", "it names no IP address")])
    assert (found.sight, found.trouble) == (None, "a: it answers 500; b: it names no IP address")


def test_where_no_source_knows_the_country_the_file_does():
    found = of([("a", PLACELESS)], places={"198.51.100.9": Location("us", "Ashburn")})
    assert (found.sight, found.told) == (SeenAddress("198.51.100.9", Location("us", "Ashburn")), "")


def test_an_address_that_nobody_can_place_is_trouble():
    assert of([("a", PLACELESS)]).trouble == "a: nobody says where 198.51.100.9 is"
    assert of([("a", PLACELESS)]).sight is None


def test_the_file_is_another_voice_and_does_not_count_against_a_source():
    found = of([("a", SEEN)], places={"198.51.100.9": Location("fr", "Paris")})
    assert found.sight == SEEN
    assert found.told == "a sees 198.51.100.9 in us, the Geo-IP file has it in fr"


def test_a_source_that_names_a_country_counts_before_one_that_does_not():
    assert of([("a", PLACELESS), ("b", SEEN)]).sight == SEEN


def test_no_sentence_is_longer_than_the_control_plane_takes():
    names = [f"{number}.{'x' * 60}.example" for number in range(20)]
    assert len(of([(name, "it cannot be reached") for name in names]).trouble) == 500
    assert len(of([("a", SEEN), *((name, ABROAD) for name in names)]).told) == 500


def test_the_hosts_own_address_is_a_leak_whoever_saw_it():
    host = SeenAddress("192.0.2.7", Location("us"))
    leak = "its traffic leaves from the host's own address 192.0.2.7"
    assert of([("a", SEEN), ("b", host)], hosts={"192.0.2.7"}).leak == leak
    assert of([("a", SEEN)], hosts={"192.0.2.7"}).leak == ""
    # and although nobody can say where that is
    assert of([("a", SeenAddress("192.0.2.7"))], hosts={"192.0.2.7"}).leak == leak


def test_what_is_in_doubt_names_no_country_and_keeps_its_address():
    whole = compose(of([("a", SEEN)]), NONE, NONE, NONE)
    assert (whole.country, whole.trouble) == ("us", "")
    for findings in (
        (LeakFinding(trouble="x"), NONE, NONE),
        (NONE, LeakFinding(trouble="x"), NONE),
        (NONE, NONE, LeakFinding(trouble="x")),
    ):
        doubtful = compose(of([("a", SEEN)]), *findings)
        assert (doubtful.address, doubtful.country, doubtful.trouble) == ("198.51.100.9", None, "x")


def test_every_leak_is_told():
    found = compose(
        of([("a", SEEN)], hosts={"198.51.100.9"}), LeakFinding(leak="b"), LeakFinding(leak="c"), LeakFinding(leak="d")
    )
    assert found.leak == "its traffic leaves from the host's own address 198.51.100.9; b; c; d"
