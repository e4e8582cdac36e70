"""Whether a WireGuard server lives, from what its device counts."""

from __future__ import annotations

import pytest

from agent.vpn.wireguard.liveness import HandshakeLiveness, TransferSample


def pulse():
    made = HandshakeLiveness(15, "vpn:1")
    made.begin(0.0, TransferSample(1000, 92, 148))
    return made


def test_signs_of_life_alone_need_no_answer():
    heard = pulse()
    for now_s in range(1, 119):
        assert heard.hear(now_s, TransferSample(1000, 92, 148 + 32 * (now_s // 15))) is None


def test_data_that_stays_unanswered_is_a_death_after_15_seconds():
    heard = pulse()
    assert heard.hear(10.0, TransferSample(1000, 92, 1000)) is None
    assert heard.hear(24.9, TransferSample(1000, 92, 1296)) is None
    assert heard.hear(25.0, TransferSample(1000, 92, 1296)) == "vpn:1 has not answered for 25 s"


def test_an_answer_begins_the_wait_anew():
    heard = pulse()
    heard.hear(10.0, TransferSample(1000, 92, 1000))
    assert heard.hear(20.0, TransferSample(1000, 124, 1000)) is None
    assert heard.hear(30.0, TransferSample(1000, 124, 2000)) is None
    assert heard.hear(44.0, TransferSample(1000, 124, 3000)) is None
    assert heard.hear(45.0, TransferSample(1000, 124, 3000)) == "vpn:1 has not answered for 25 s"


@pytest.mark.parametrize(("handshake_at", "trouble"), [(1000, "no handshake with vpn:1 for 180 s"), (1120, None)])
def test_keys_that_are_not_renewed_run_out(handshake_at, trouble):
    heard = pulse()
    for now_s in range(1, 181):
        found = heard.hear(now_s, TransferSample(1000 if now_s < 120 else handshake_at, 92 + now_s, 148 + now_s))
    assert found == trouble
