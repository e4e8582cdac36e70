"""Tests that an exit refuses targets on its own host and in private networks."""

from __future__ import annotations

import json

import pytest


def admin_port(exit_) -> str:
    return json.loads((exit_.state_dir / "envoy.json").read_text())["admin"].rpartition(":")[2]


@pytest.mark.parametrize("tunnel", [True, False], ids=["by CONNECT", "by plain HTTP"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "localhost"])
def test_exit_refuses_requests_to_its_own_admin_interface(lab, host, tunnel):
    (exit_,) = [each for each in lab.exits if each.country == "gb"]
    answer = lab.request("gb", base_url=f"http://{host}:{admin_port(exit_)}", path="/server_info", tunnel=tunnel)
    assert answer.status == 503, answer.text
    assert b"command_line_options" not in answer.body


@pytest.mark.parametrize("host", ["10.0.0.1", "172.17.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"])
def test_private_address_is_refused_at_once(lab, host):
    answer = lab.request("gb", base_url=f"http://{host}", tunnel=False)
    assert answer.status == 503
    assert "address_denied" in answer.text


def test_admin_interface_answers_inside_the_namespace(lab):
    """Show that the tests above can fail."""
    (exit_,) = [each for each in lab.exits if each.country == "gb"]
    assert "command_line_options" in exit_.query_admin("/server_info")
