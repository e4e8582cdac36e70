"""A locality is a region, or a region and a zone in it."""

from __future__ import annotations

import pytest

from model.locality import Locality


@pytest.mark.parametrize("text", ["eu", "eu-west-1", "eu/a", "1/2", "a" * 63 + "/" + "b" * 63])
def test_locality_round_trips_through_text(text):
    assert str(Locality.parse(text)) == text


def test_locality_has_region_and_zone():
    assert Locality.parse("eu-west/a") == Locality("eu-west", "a")
    assert Locality.parse("eu-west") == Locality("eu-west")
    assert Locality("eu-west") != Locality("eu-west", "a")


@pytest.mark.parametrize(
    "text", ["", "/", "/a", "eu/", "eu/a/b", "EU", "eu_west", "e u", " eu", "eu\n", "eu\0", "eu/a\n", "ё", "a" * 64]
)
def test_malformed_locality_is_refused(text):
    with pytest.raises(ValueError, match="is not region or region/zone"):
        Locality.parse(text)
