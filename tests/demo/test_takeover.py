"""A name in use on real agents and a control plane: nobody takes it without an operator's word, which ends the former agent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from demo.lab import LabSettings
from demo.setup import open_lab

pytestmark = [pytest.mark.slow, pytest.mark.envoy, pytest.mark.postgres, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def lab():
    settings = LabSettings(exits=("us",), tunnels=False, gateway_port=0, api_port=0, xds_port=0, timeout_s=120)
    with open_lab(settings) as opened:
        opened.start()
        yield opened


def test_name_is_taken_over_only_by_an_operators_word(lab):
    owner = lab.exits[0]

    def newcomer(number: int, **rights):
        """Start an agent with a new state folder, the owner's name and a token of its own."""
        token = lab.api("POST", "/join-tokens", {"fleet": "demo", "role": "exit", **rights})["token"]
        file = lab.state_dir / f"newcomer-{number}.token"
        file.touch(mode=0o600)
        file.write_text(token)
        arguments = [*owner.arguments]
        arguments[arguments.index("--token-file") + 1] = str(file)
        other = replace(owner, state_dir=lab.state_dir / f"newcomer-{number}", arguments=tuple(arguments), child=None)
        other.start()
        return other

    def wait_for_end(agent) -> str:
        lab.wait_for(f"{agent.state_dir.name} to end", lambda: "it runs" if agent.child.alive else None, [])
        return agent.child.log.read_text()

    thief = newcomer(1)
    log = wait_for_end(thief)
    assert "exit us-1 is enrolled with another key" in log
    assert "--takes-over us-1" in log
    assert owner.child.alive
    assert lab.request("us").status == 200

    heir = newcomer(2, proxy="us-1", takes_over=True)
    assert "was replaced by another registration" in wait_for_end(owner)
    lab.exits[0] = heir
    lab.wait_until_healthy()
    lab.wait_until_serving()
    assert heir.child.alive
