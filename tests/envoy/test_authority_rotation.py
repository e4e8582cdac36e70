"""Leaf, intermediate and root are replaced under load: no request fails, and no listener drains."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from model.authority import CertificateAuthority, create_authority
from model.current_authority import renewed
from model.entities import TrustedAuthority
from model.world import Change, Kind, put
from tests.envoy.envoy_process import eventually
from tests.envoy.test_gateway_to_exit import MixedRequests, asking, serving_pages, wait_until_healthy
from tests.envoy.two_hops import GATEWAY, TwoHops, certify, make_exit, two_hops

pytestmark = pytest.mark.envoy


class AuthorityRotation:
    """The agents of a gateway and its exits, which write new secrets one after another while clients send requests."""

    def __init__(self, hops: TwoHops, clients: MixedRequests) -> None:
        self.hops = hops
        self.clients = clients

    def take_up(self, authority: CertificateAuthority) -> None:
        proxies = {GATEWAY: (self.hops.gateway, self.hops.gateway_server)}
        proxies |= {each: (self.hops.exits[each], self.hops.servers[each]) for each in self.hops.exits}
        for proxy_id, (envoy, server) in proxies.items():
            leaf = certify(self.hops.folder / str(proxy_id), authority, server.proxy)
            serial = f"{leaf.serial_number:x}"
            eventually(lambda envoy=envoy, serial=serial: serial in envoy.admin("/certs").lower())
            served = self.clients.results.total()
            eventually(lambda served=served: self.clients.results.total() > served + 30)


def test_no_request_fails_while_leaf_intermediate_and_root_change(tmp_path_factory):
    exit_ = make_exit(1, None, egress_address="127.0.0.1")
    with two_hops(tmp_path_factory.mktemp("rotation"), exit_) as hops, serving_pages() as port:
        wait_until_healthy(hops)
        clients = MixedRequests(hops, port)
        rotation, now = AuthorityRotation(hops, clients), datetime.now(UTC)
        first, second = hops.authority, create_authority(now)
        trusted = TrustedAuthority(UUID(int=4), second.certificate_pem)
        below_first = renewed(first, now)
        with asking(clients):
            rotation.take_up(first)  # new leaves
            rotation.take_up(below_first)  # below a new intermediate
            hops.change(put(trusted))
            rotation.take_up(replace(below_first, certificate_pem=first.certificate_pem + second.certificate_pem))
            rotation.take_up(replace(second, certificate_pem=second.certificate_pem + first.certificate_pem))
            hops.change(Change(Kind.AUTHORITY, hops.trusted.id, None))
            rotation.take_up(second)
        assert {*clients.results} == {"GET 200 ok", "POST 200 ok", "CONNECT 200 ok"}, clients.results
        for envoy in (hops.gateway, *hops.exits.values()):
            assert envoy.stat("listener_manager.listener_modified") == 0
