"""The options of `exitplane agent` for a tunnel."""

from __future__ import annotations

import base64
import os

import pytest
from typer import Typer
from typer.testing import CliRunner

import cli.agent
from agent.config.settings import AgentSettings
from model.errors import ExitplaneError

KEY = base64.b64encode(os.urandom(32)).decode()
WG = (
    f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.2\nDNS = 10.0.0.1\n"
    f"[Peer]\nPublicKey = {KEY}\nEndpoint = 192.0.2.1:1\nAllowedIPs = 0.0.0.0/0\n"
)
GIVEN = ("--role", "exit", "--api", "http://192.0.2.9:8000", "--name", "us-1")
PLACED = ("--pool", "us", "--address", "192.0.2.3", "--port", "8443")


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch):
    """Keep the logging configuration: the runner closes its standard error, which later logs would write to."""
    monkeypatch.setattr("cli.agent.configure_logging", lambda *_: None)


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Give `read(*options)`, which returns the settings of the exit."""
    taken: list[AgentSettings] = []

    async def serve(settings):
        taken.append(settings)

    monkeypatch.setattr(cli.agent, "serve", serve)
    (tmp_path / "wg.conf").write_text(WG)
    (tmp_path / "silent.conf").write_text(WG.replace("DNS = 10.0.0.1\n", ""))

    def run(*options: str):
        app = Typer()
        app.command()(cli.agent.agent)
        options = [str(tmp_path / each) if each.endswith(".conf") else each for each in options]
        done = CliRunner().invoke(app, [*GIVEN, *PLACED, "--state", str(tmp_path / "state"), *options])
        if isinstance(done.exception, ExitplaneError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return taken[-1].exit

    return run


def test_tunnel_file_alone_implies_kill_switch(read):
    exit_ = read("--tunnel", "wg.conf")
    assert len(exit_.servers) == 1
    assert (exit_.tunnel_interface, exit_.kill_switch, exit_.resolvers) == ("ep0", True, ())


def test_options_replace_defaults(read):
    exit_ = read(
        *("--tunnel", "wg.conf", "--tunnel", "silent.conf", "--tunnel-interface", "tun7", "--dns", "192.0.2.53"),
        *("--dns", "2001:db8::53", "--no-kill-switch"),
    )
    assert len(exit_.servers) == 2
    assert (exit_.tunnel_interface, exit_.kill_switch) == ("tun7", False)
    assert exit_.resolvers == ("192.0.2.53", "2001:db8::53")


def test_kill_switch_is_allowed_for_tunnel_of_somebody_else(read):
    exit_ = read("--tunnel-interface", "wg0", "--kill-switch", "--tunnel-endpoint", "udp:192.0.2.1:51820")
    assert exit_.kill_switch
    assert [(str(place), protocol) for place, protocol in exit_.tunnel_endpoints] == [("192.0.2.1:51820", "udp")]


def test_named_interface_implies_kill_switch(read):
    assert read("--tunnel-interface", "wg0", "--tunnel-endpoint", "udp:192.0.2.1:51820").kill_switch
    assert not read("--tunnel-interface", "wg0", "--no-kill-switch").kill_switch
    # the exit's Envoy dials its parent alone, which may be outside the tunnel
    assert not read("--tunnel-interface", "wg0", "--parent", "127.0.0.1:8888").kill_switch
    assert not read().kill_switch


def test_connections_are_bound_to_named_interface_alone(read):
    somebody_elses = ("--tunnel-interface", "wg0", "--no-kill-switch")
    assert read(*somebody_elses).bound_interface == "wg0"
    assert read(*somebody_elses, "--parent", "127.0.0.1:8888").bound_interface is None
    # two interfaces take turns, and rules of the namespace lead there
    assert read("--tunnel", "wg.conf").bound_interface is None


def test_behind_kill_switch_connections_to_targets_are_marked(read):
    assert read("--tunnel", "wg.conf").marks_clients
    assert not read("--tunnel", "wg.conf", "--no-kill-switch").marks_clients
    # a parent may be on the exit's own host
    assert not read("--tunnel", "wg.conf", "--parent", "127.0.0.1:8888").marks_clients


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tunnel", "silent.conf"], r"silent.conf names no resolver .*; add --dns ADDRESS"),
        (["--tunnel", "none.conf"], "cannot be read"),
        (["--tunnel", "wg.conf", "--dns", "resolver.example"], "--dns 'resolver.example' is not an IP address"),
        (["--tunnel", "wg.conf", "--dns", "127.0.0.53"], "--dns '127.0.0.53' is not behind the tunnel"),
        (["--tunnel", "wg.conf", "--egress-address", "192.0.2.1"], "--egress-address with --tunnel; leave it out"),
        (["--tunnel", "wg.conf", "--tunnel-endpoint", "udp:192.0.2.1:1"], "--tunnel-endpoint with --tunnel"),
        (["--tunnel-credentials", "wg.conf"], "--tunnel-credentials without --tunnel; add --tunnel FILE"),
        (["--kill-switch"], "needs its interface and where it goes; add --tunnel-interface"),
        (["--kill-switch", "--tunnel-interface", "wg0"], "needs its interface and where it goes"),
        (["--tunnel-interface", "wg0"], "where it goes; .*, or --no-kill-switch to let traffic leave outside"),
        (["--tunnel-endpoint", "192.0.2.1:1"], "names neither udp nor tcp; write udp:HOST:PORT"),
        (["--tunnel", "wg.conf", "--tunnel-interface", "x" * 16], "is no interface's name"),
    ],
)
def test_conflicting_options_are_refused_with_hint(read, options, message):
    with pytest.raises(ExitplaneError, match=message):
        read(*options)
