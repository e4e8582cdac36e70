"""The offline Geo-IP file: lookups, replacement, and unusable files."""

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
    """A function `open_file(path)` that opens a GeoFile and closes it after the test."""
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(closing(GeoFile(path)))


def replace_with(path, content):
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def test_geo_file_finds_location_of_address(path, open_file):
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
def test_geo_file_reads_flat_records(path, record, open_file):
    replace_with(path, mmdb({"198.51.100.0/24": record}))
    assert open_file(path).find("198.51.100.9") == Location("us", "US City", "Example", "Etc/UTC")


def test_geo_file_is_reloaded_when_replaced(path, open_file):
    file = open_file(path)
    replace_with(path, mmdb({"198.51.100.0/24": a_country("FR")}))
    assert file.find("198.51.100.9").country == "fr"


@pytest.mark.parametrize("content", [b"", KNOWN[:-20], KNOWN[:200], b"<html>", None])
def test_unusable_replacement_leaves_previous_file_in_use(path, content, open_file):
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
            "names no countries: its type is Test-ASN",
        ),
    ],
)
def test_unusable_file_is_refused_at_start_with_reason(path, content, why):
    path.write_bytes(content)
    with pytest.raises(BadSetting, match=why) as refused:
        GeoFile(path)
    assert str(path) in refused.value.message
    assert refused.value.hint


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(BadSetting, match="No such file"):
        GeoFile(tmp_path / "none.mmdb")
    with pytest.raises(BadSetting, match="Is a directory"):
        GeoFile(tmp_path)


def test_damaged_byte_never_crashes(path):
    """A file with any one byte changed is refused, or gives a location or None."""
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
