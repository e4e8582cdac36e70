"""Levels of the log by module."""

from __future__ import annotations

import pytest

from model.log_levels import LogLevels, parse_levels


@pytest.mark.parametrize(
    ("text", "module", "level", "allowed"),
    [
        ("info", "xds.server.publisher", "debug", False),
        ("info", "xds.server.publisher", "info", True),
        ("info,xds.server=debug", "xds.server.publisher", "debug", True),
        ("info,xds.server=debug", "xds.serverless", "debug", False),
        ("info,xds=error,xds.server=debug", "xds.server", "debug", True),
        ("info,xds=error,xds.server=debug", "xds.protocol", "warning", False),
        ("keeper=warning", "keeper.lease", "info", False),
        ("keeper=warning", "api.app", "info", True),
        ("error\nkeeper=info\n", "keeper.lease", "info", True),
        ("error\nkeeper=info\n", "api.app", "warning", False),
    ],
)
def test_module_has_the_level_of_its_nearest_package(text, module, level, allowed):
    assert LogLevels(text).allows(module, level) is allowed


def test_levels_change_while_in_use():
    levels = LogLevels()
    assert not levels.allows("api", "debug")
    levels.change("debug")
    assert levels.allows("api", "debug")
    with pytest.raises(ValueError, match="loud"):
        levels.change("loud")
    assert levels.allows("api", "debug")


@pytest.mark.parametrize("text", ["loud", "xds=", "xds=loud", "=", "info;debug"])
def test_unknown_level_is_refused(text):
    with pytest.raises(ValueError, match="neither a level nor"):
        parse_levels(text)
