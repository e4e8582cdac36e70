"""The resolvers in an exit's bootstrap."""

from __future__ import annotations

from uuid import UUID

import pytest

from agent.envoy.bootstrap import Bootstrap, render
from model.entities import Role
from tests.tunnels import lab, proxy

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600), pytest.mark.envoy]


async def test_bootstrap_resolves_target_names_by_tunnel_resolver(internet, until, tmp_path):
    with proxy.running(tmp_path, resolvers=(lab.NET_ADDRESS,)):
        await until(proxy.listens)
        assert await proxy.ask("page.nowhere.invalid") == "HTTP/1.1 200 OK"
    assert set(internet.questions) == {lab.EXIT_ADDRESS}


def test_bootstrap_without_resolvers_is_unchanged():
    assert "typed_dns_resolver_config" not in render(Bootstrap(Role.EXIT, UUID(int=1), UUID(int=2), ()))
