"""Tests of `exitplane messages`."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.postgres


@pytest.fixture
def secret(tmp_path):
    """`secret(text)`: a file that its owner alone can read."""

    def write(text, mode=0o600):
        path = tmp_path / f"secret-{len(text)}"
        path.write_text(f"{text}\n")
        path.chmod(mode)
        return str(path)

    return write


async def test_channel_and_rule_are_added_and_tested(exitplane, secret):
    url, other = secret("https://hooks.example.net/s3cr3t"), secret("ntfy://ntfy.example.net/s3cr3t-topic")
    refused = await exitplane("messages", "add-channel", "ops", "--url-file", url)
    assert (refused.status, "a webhook needs a key that signs it" in refused.err) == (1, True)
    for given in (("--url-file", url, "--key-file", secret("0123456789abcdef")), ("--url-file", other)):
        done = await exitplane("messages", "add-channel", "ops", *given, "--json")
        assert (done.status, "s3cr3t" in done.out + done.err) == (0, False)
    assert json.loads(done.out)["service"] == "ntfy"
    selected = ("--event", "exit_lost", "--channel", "ops", "--pool", "us-*", "--for", "60", "--no-recovery", "--json")
    rule = json.loads((await exitplane("messages", "add-rule", "lost", *selected)).out)
    assert (rule["pool"], rule["for_s"], rule["recovery"], rule["channels"]) == ("us-*", 60, False, ["ops"])
    assert (await exitplane("messages", "test", "ops")).out.startswith("message ")
    shown = await exitplane("messages", "list", "--state", "pending")
    assert ("Test message" in shown.out, shown.status) == (True, 0)
    refused = await exitplane("delete", "channels", "ops", "--yes")
    assert "rules send to this channel" in refused.err


async def test_file_that_others_can_read_is_refused(exitplane, secret):
    url = secret("ntfy://ntfy.example.net/t", mode=0o644)
    done = await exitplane("messages", "add-channel", "ops", "--url-file", url)
    assert (done.status, "chmod 600" in done.err) == (1, True)
