"""An offline Geo-IP file: what it knows, that it may be replaced, and every way in which it is of no use."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing

import pytest
from structlog.testing import capture_logs

from agent.config.option_parsing import BadSetting
from agent.egress.geo_file import GeoFile
from agent.egress.types import Location
from tests.agent.egress.mmdb import a_country, mmdb

KNOWN = mmdb({"198.51.100.0/24": a_country("US"), "203.0.113.0/25": a_country("JP")})


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "geo.mmdb"
    made.write_bytes(KNOWN)
    return made


@pytest.fixture
def open_file():
    """`open_file(path)`: a GeoFile, closed after the test."""
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(closing(GeoFile(path)))


def replace_with(path, content):
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def test_it_knows_the_place_of_an_address(path, open_file):
    file = open_file(path)
    assert file.find("198.51.100.9") == Location("us", "US City", None, "Etc/UTC")
    assert file.find("203.0.113.9").country == "jp"
    assert file.find("203.0.113.200") is None
    assert file.find("2001:db8::1") is None


@pytest.mark.parametrize(
    "record",
    [
        {"country": "US", "city": "US City", "timezone": "Etc/UTC", "as_name": "Example"},
        {
            "country_code": "US",
            "country": "United States",
            "city": "US City",
            "timezone": "Etc/UTC",
            "as_name": "Example",
        },
    ],
)
def test_flat_records_are_read_too(path, record, open_file):
    replace_with(path, mmdb({"198.51.100.0/24": record}))
    assert open_file(path).find("198.51.100.9") == Location("us", "US City", "Example", "Etc/UTC")


def test_a_file_that_is_replaced_is_read_anew(path, open_file):
    file = open_file(path)
    replace_with(path, mmdb({"198.51.100.0/24": a_country("FR")}))
    assert file.find("198.51.100.9").country == "fr"


@pytest.mark.parametrize("content", [b"", KNOWN[:-20], KNOWN[:200], b"<html>", None])
def test_what_is_of_no_use_does_not_replace_what_is(path, content, open_file):
    file = open_file(path)
    if content is None:
        path.unlink()
    else:
        replace_with(path, content)
    with capture_logs() as logs:
        assert file.find("198.51.100.9").country == "us"
        assert file.find("198.51.100.9").country == "us"
    assert [each["event"] for each in logs] == ["geoip.not_replaced"]
    replace_with(path, mmdb({"198.51.100.0/24": a_country("FR")}))
    assert file.find("198.51.100.9").country == "fr"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "truncated or no MaxMind DB"),
        (KNOWN[:-200], "truncated or no MaxMind DB"),
        (KNOWN[300:], "is damaged|truncated"),
        (
            mmdb({"198.51.100.0/24": {"autonomous_system_number": 64500}}, "Test-ASN"),
            "names no countries: its kind is Test-ASN",
        ),
    ],
)
def test_a_file_of_no_use_is_refused_at_the_start_with_its_reason(path, content, why):
    path.write_bytes(content)
    with pytest.raises(BadSetting, match=why) as refused:
        GeoFile(path)
    assert str(path) in refused.value.message
    assert refused.value.hint


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="No such file"):
        GeoFile(tmp_path / "none.mmdb")
    with pytest.raises(BadSetting, match="Is a directory"):
        GeoFile(tmp_path)


def test_no_damage_is_a_crash(path):
    """Every byte, replaced by another, is refused, or leaves a place or none."""
    choose = random.Random(7)
    for position in range(len(KNOWN)):
        damaged = bytearray(KNOWN)
        damaged[position] ^= choose.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            file = GeoFile(path)
        except BadSetting:
            continue
        with capture_logs():
            assert isinstance(file.find("198.51.100.9"), Location | None)
            file.find("203.0.113.9")
        file.close()
