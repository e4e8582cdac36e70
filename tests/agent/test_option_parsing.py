from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agent.config.option_parsing import (
    BadSetting,
    parse_api,
    read_address,
    read_endpoint,
    read_listen_address,
    read_locality,
)
from agent.config.settings import read_token
from model.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "form"),
    [("192.0.2.1", "192.0.2.1"), ("2001:DB8:0::1", "2001:db8::1"), ("::FFFF:192.0.2.1", "192.0.2.1")],
)
def test_read_address_returns_canonical_form(text, form):
    assert read_address("--host-address", text) == form


@pytest.mark.parametrize("text", ["localhost:9902", "9902", ":9902", "127.0.0.1", "127.0.0.1:0", "::1:9902"])
def test_listener_has_ip_address_and_port(text):
    assert read_listen_address("--metrics-listen", "[::]:9902") == Endpoint("::", 9902)
    with pytest.raises(BadSetting, match="--metrics-listen"):
        read_listen_address("--metrics-listen", text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("xds.example.net:18000", "xds.example.net", 18000),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("[2001:db8::1]:9", "2001:db8::1", 9),
    ],
)
def test_endpoint_round_trips(text, host, port):
    endpoint = read_endpoint("--xds", text)

    assert endpoint == Endpoint(host, port)
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:http",
        "host:-1",
        "::1:80",
        "a/b:1",
        "u@h:1",
        "h h:1",
        "[]:1",
        "h:¹",
    ],
)
def test_invalid_endpoint_is_refused_with_option_value_and_hint(text):
    with pytest.raises(BadSetting) as refused:
        read_endpoint("--xds", text)

    assert str(refused.value).startswith(f"--xds {text!r} is not host:port; write ")


@pytest.mark.parametrize(
    "text", ["", "host:8000", "ftp://host", "http://", "http://h:99999", "http://h/?a=1", "http://u:p@h"]
)
def test_invalid_api_url_is_refused(text):
    with pytest.raises(BadSetting, match="--api"):
        parse_api(text)


@pytest.mark.parametrize("text", ["http://192.0.2.1:8000", "https://api.example.net", "http://[::1]:8000/below"])
def test_api_url_may_have_any_host_and_path(text):
    assert str(parse_api(text)) == text


def test_join_token_is_read_without_line_end(tmp_path):
    (tmp_path / "token").write_text("secret\n")

    assert read_token(tmp_path / "token") == "secret"


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1)])
def test_join_token_that_others_may_read_is_warned_about(mode, warnings, tmp_path):
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(mode)
    with capture_logs() as logs:
        assert read_token(path) == "secret"
    assert [entry["hint"] for entry in logs] == [f"chmod 600 {path}"] * warnings


def test_missing_join_token_is_refused_with_hint(tmp_path):
    (tmp_path / "empty").touch()
    for path, message in (
        (None, "there is no join token"),
        (tmp_path / "no", "No such file"),
        (tmp_path / "empty", "is empty"),
    ):
        with pytest.raises(BadSetting, match=f"{message}.*exitplane token"):
            read_token(path)


@pytest.mark.parametrize("text", ["eu-west", "eu-west/a", "1/2", "a" * 63 + "/" + "b" * 63])
def test_locality_round_trips(text):
    assert str(read_locality("--locality", text)) == text


@pytest.mark.parametrize(
    "text", ["", "/", "eu/", "/a", "eu/a/b", "EU", "eu west", "eu_west", "a" * 64, "eu/" + "b" * 64]
)
def test_invalid_locality_is_refused_with_hint(text):
    with pytest.raises(BadSetting) as refused:
        read_locality("--locality", text)

    assert str(refused.value).startswith(f"--locality {text!r} is not region or region/zone; write eu-west or ")
