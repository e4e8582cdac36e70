"""Settings from the environment, and their errors."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from model.endpoint import Endpoint, parse_endpoint
from model.settings import BadSettings, Settings, default_state_dir, read_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("EXITPLANE_")]:
        monkeypatch.delenv(name)


def test_defaults_listen_on_loopback_only():
    settings = read_settings()
    assert settings.database_url is None
    assert {address.host for address in [*settings.api_addresses, *settings.xds_addresses]} == {"127.0.0.1"}
    assert settings.silence_timeout_s > settings.heartbeat_interval_s


def test_variables_are_read(monkeypatch):
    monkeypatch.setenv("EXITPLANE_STATE_DIR", "/srv/exitplane")
    monkeypatch.setenv("EXITPLANE_API_LISTEN", "0.0.0.0:80,[::1]:81")
    monkeypatch.setenv("EXITPLANE_REMOVAL_GRACE_S", "0")
    settings = read_settings()
    assert settings.state_dir == Path("/srv/exitplane")
    assert settings.api_addresses == [Endpoint("0.0.0.0", 80), Endpoint("::1", 81)]
    assert settings.removal_grace_s == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONTAINER_ENGINE", "/run/docker.sock"),
        ("CONTAINER_ENGINE", "unix://run/docker.sock"),
        ("CONTAINER_ENGINE", "tcp://engine"),
        ("CONTAINER_ENGINE", "https://engine:2376"),
        ("CONTAINER_API", "plane:8000"),
        ("API_LISTEN", "8000"),
        ("API_LISTEN", "localhost:http"),
        ("API_LISTEN", ":8000"),
        ("API_LISTEN", ""),
        ("API_LISTEN", "127.0.0.1:8000,"),
        ("API_TLS_HOSTS", "api.example.net,a b"),
        ("API_TLS_HOSTS", "-a"),
        ("XDS_LISTEN", "127.0.0.1:65536"),
        ("XDS_LISTEN", "127.0.0.1:-1"),
        ("XDS_ADVERTISE", "gateway"),
        ("HEARTBEAT_INTERVAL_S", "0"),
        ("HEARTBEAT_INTERVAL_S", "soon"),
        ("SILENCE_TIMEOUT_S", "-1"),
        ("SILENCE_TIMEOUT_S", "nan"),
        ("LOST_AFTER_S", "0"),
        ("REMOVAL_GRACE_S", "-0.1"),
    ],
)
def test_bad_value_is_an_error_with_the_variable_and_the_value(monkeypatch, name, value):
    monkeypatch.setenv(f"EXITPLANE_{name}", value)
    with pytest.raises(BadSettings) as caught:
        read_settings()
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"EXITPLANE_{name}={value!r}: ")
    assert caught.value.hint == f"correct EXITPLANE_{name}"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:8000", "::1", 8000), (" localhost:65535 ", "localhost", 65535)],
)
def test_address_round_trips(text, host, port):
    assert parse_endpoint(text, lowest_port=0) == Endpoint(host, port)
    assert str(parse_endpoint(text, lowest_port=0)) == text.strip()


def test_state_folder_depends_on_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_dir() == Path("/var/lib/exitplane")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    assert default_state_dir() == Path("/home/me/state/exitplane")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_state_dir() == Path("/home/me/.local/state/exitplane")


def test_every_setting_has_a_variable_of_the_same_name():
    assert Settings.model_config["env_prefix"] == "EXITPLANE_"


@pytest.mark.parametrize(
    ("descriptors", "given", "total"),
    [
        (1_024, {}, 384),
        (20_000, {}, 9_872),
        (1_048_576, {}, 10_000),
        (1_024, {"connections_max": 300}, 300),
        (100, {}, 1),
    ],
)
def test_connections_fit_into_the_descriptors(descriptors, given, total):
    assert Settings(**given).connection_limits(descriptors).total == total


def test_more_connections_than_descriptors_are_refused():
    with pytest.raises(BadSettings, match="EXITPLANE_CONNECTIONS_MAX=400 needs 1056 file descriptors") as refused:
        Settings(connections_max=400).connection_limits(1_024)
    assert "LimitNOFILE" in refused.value.hint


@pytest.mark.parametrize("text", ["loopback", "127.0.0.1/33", "10.0.0.1/8"])
def test_trusted_proxies_must_be_addresses_or_networks(text, monkeypatch):
    monkeypatch.setenv("EXITPLANE_TRUSTED_PROXIES", text)
    with pytest.raises(BadSettings, match="EXITPLANE_TRUSTED_PROXIES"):
        read_settings()


@pytest.mark.parametrize("address", ["0.0.0.0:8000", "127.0.0.1:8000,[::]:8000", "192.0.2.1:8000", "plane:8000"])
def test_plain_http_beyond_loopback_is_refused_unless_asked_for(monkeypatch, address):
    monkeypatch.setenv("EXITPLANE_API_LISTEN", address)
    monkeypatch.setenv("EXITPLANE_TRUSTED_PROXIES", "192.0.2.2")
    exposed = re.escape(address.rpartition(",")[2])
    with pytest.raises(BadSettings, match=rf"has {exposed}, where .* in clear; set EXITPLANE_API_TLS=true, or"):
        _ = read_settings().serves_tls
    monkeypatch.setenv("EXITPLANE_API_INSECURE", "true")
    assert not read_settings().serves_tls
    monkeypatch.setenv("EXITPLANE_API_TLS", "true")
    assert read_settings().serves_tls


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "localhost:8000,[::1]:8000", "127.9.9.9:8000"])
def test_plain_http_on_loopback_is_served(monkeypatch, address):
    monkeypatch.setenv("EXITPLANE_API_LISTEN", address)
    assert not read_settings().serves_tls


def test_certificate_and_key_of_the_api_belong_together(monkeypatch):
    monkeypatch.setenv("EXITPLANE_API_TLS_KEY_FILE", "/srv/key.pem")
    with pytest.raises(BadSettings, match="belong together; set both"):
        _ = read_settings().serves_tls
    monkeypatch.setenv("EXITPLANE_API_TLS_CERTIFICATE_FILE", "/srv/certificate.pem")
    assert read_settings().serves_tls


def test_certificate_is_issued_for_the_hosts_of_the_api(monkeypatch):
    monkeypatch.setenv("EXITPLANE_API_LISTEN", "0.0.0.0:8000,[::]:8000,192.0.2.1:8000")
    monkeypatch.setenv("EXITPLANE_API_TLS_HOSTS", "api.example.net, 192.0.2.1")
    monkeypatch.setenv("EXITPLANE_XDS_ADVERTISE", "plane.example.net:18000")
    hosts = ["api.example.net", "192.0.2.1", "plane.example.net", "localhost", "127.0.0.1", "::1"]
    assert read_settings().api_hosts == hosts
