"""Tests that an exit refuses targets on its own host and in private networks."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("tunnel", [True, False], ids=["by CONNECT", "by plain HTTP"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "localhost"])
def test_exit_refuses_requests_to_its_own_host(lab, host, tunnel):
    answer = lab.request("gb", base_url=f"http://{host}:8443", tunnel=tunnel)
    assert answer.status == 503, answer.text
    assert "address_denied" in answer.text


@pytest.mark.parametrize("host", ["10.0.0.1", "172.17.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"])
def test_private_address_is_refused_at_once(lab, host):
    answer = lab.request("gb", base_url=f"http://{host}", tunnel=False)
    assert answer.status == 503
    assert "address_denied" in answer.text
