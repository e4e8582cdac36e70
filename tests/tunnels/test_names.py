"""Who the exit's Envoy asks for the names of targets."""

from __future__ import annotations

from uuid import UUID

import pytest

from agent.envoy.bootstrap import Bootstrap, render
from model.entities import Role
from tests.tunnels import lab, proxy

pytestmark = [pytest.mark.tunnels, pytest.mark.timeout(600), pytest.mark.envoy]


async def test_targets_names_are_asked_of_the_tunnels_resolver_and_as_they_stand(internet, until, tmp_path):
    with proxy.running(tmp_path, resolvers=(lab.NET_ADDRESS,)):
        await until(proxy.listens)
        assert await proxy.ask("page.nowhere.invalid") == "HTTP/1.1 200 OK"
    assert set(internet.questions) == {lab.EXIT_ADDRESS}


def test_without_resolvers_the_bootstrap_is_as_it_was():
    assert "typed_dns_resolver_config" not in render(Bootstrap(Role.EXIT, UUID(int=1), UUID(int=2), ()))
