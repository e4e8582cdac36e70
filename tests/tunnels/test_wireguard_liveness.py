"""The liveness of a WireGuard server, from the counters of its device."""

from __future__ import annotations

import pytest

from agent.vpn.wireguard.liveness import HandshakeLiveness, TransferSample


def new_liveness():
    liveness = HandshakeLiveness(15, "vpn:1")
    liveness.start(0.0, TransferSample(1000, 92, 148))
    return liveness


def test_keepalives_need_no_answer():
    liveness = new_liveness()
    for now_s in range(1, 119):
        assert liveness.update(now_s, TransferSample(1000, 92, 148 + 32 * (now_s // 15))) is None


def test_server_is_dead_after_15_seconds_without_answer_to_data():
    liveness = new_liveness()
    assert liveness.update(10.0, TransferSample(1000, 92, 1000)) is None
    assert liveness.update(24.9, TransferSample(1000, 92, 1296)) is None
    assert liveness.update(25.0, TransferSample(1000, 92, 1296)) == "vpn:1 has not answered for 25 s"


def test_answer_restarts_wait():
    liveness = new_liveness()
    liveness.update(10.0, TransferSample(1000, 92, 1000))
    assert liveness.update(20.0, TransferSample(1000, 124, 1000)) is None
    assert liveness.update(30.0, TransferSample(1000, 124, 2000)) is None
    assert liveness.update(44.0, TransferSample(1000, 124, 3000)) is None
    assert liveness.update(45.0, TransferSample(1000, 124, 3000)) == "vpn:1 has not answered for 25 s"


@pytest.mark.parametrize(("handshake_at", "failure"), [(1000, "no handshake with vpn:1 for 180 s"), (1120, None)])
def test_missing_handshake_is_reported_after_180_seconds(handshake_at, failure):
    liveness = new_liveness()
    for now_s in range(1, 181):
        found = liveness.update(now_s, TransferSample(1000 if now_s < 120 else handshake_at, 92 + now_s, 148 + now_s))
    assert found == failure
