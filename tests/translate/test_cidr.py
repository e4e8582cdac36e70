"""CIDR networks in the form that Envoy takes."""

from __future__ import annotations

import pytest

from xds.translate.cidr import prefix_of


@pytest.mark.parametrize(
    ("network", "prefix"),
    [
        ("10.0.0.0/8", ("10.0.0.0", 8)),
        ("fd00:0::/8", ("fd00::", 8)),
        ("::ffff:0:0/96", ("::ffff:0:0", 96)),
        ("::ffff:1.2.3.0/120", ("::ffff:102:300", 120)),
    ],
)
def test_network_is_written_the_same_by_every_python(network, prefix):
    assert prefix_of(network) == prefix
