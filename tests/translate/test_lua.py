"""The Lua scripts as they are sent to gateways and exits."""

from __future__ import annotations

from pathlib import Path

import pytest

from xds.translate.lua import read_script

SCRIPTS = sorted((Path(__file__).parents[2] / "envoy").glob("*.lua"))


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_script_is_sent_without_its_comments(file):
    sent, written = read_script(file.stem).splitlines(), file.read_text().splitlines()
    assert [line for line in written if line not in sent and line.strip() and not line.lstrip().startswith("--")] == []
    assert not any(line.lstrip().startswith("--") for line in sent)
    assert len(sent) < len(written)
