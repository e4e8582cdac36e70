"""The settings of an OIDC provider: complete, or refused with one message."""

from __future__ import annotations

import os

import pytest

from model.settings import BadSettings, OidcSettings, read_settings

ISSUER, CLIENT = {"OIDC_ISSUER": "https://login.example.net/realm"}, {"OIDC_CLIENT_ID": "exitplane"}


@pytest.fixture
def provider_settings(monkeypatch):
    """`provider_settings(OIDC_ISSUER=…)`: the provider settings from such an environment."""

    def read(**variables):
        for name in [name for name in os.environ if name.startswith("EXITPLANE_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"EXITPLANE_{name}", value)
        return read_settings().oidc

    return read


def test_no_issuer_means_no_provider(provider_settings):
    assert provider_settings() is None
    assert provider_settings(OIDC_ISSUER="") is None


def test_all_provider_settings_are_read(provider_settings):
    oidc = provider_settings(
        **ISSUER,
        **CLIENT,
        OIDC_CLIENT_SECRET="s3cret",
        OIDC_REDIRECT_URI="https://api.example.net/api/v1/auth/oidc/callback",
        OIDC_ROLE_CLAIM="groups",
        OIDC_ROLES="viewer=staff, admin=platform,viewer=others",
    )
    assert oidc == OidcSettings(
        "https://login.example.net/realm",
        "exitplane",
        "s3cret",
        "https://api.example.net/api/v1/auth/oidc/callback",
        "groups",
        (("admin", "platform"), ("viewer", "staff"), ("viewer", "others")),
    )


def test_plain_http_issuer_is_allowed_on_loopback(provider_settings):
    for issuer in ("http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost:9000"):
        assert provider_settings(**CLIENT, OIDC_ISSUER=issuer).issuer == issuer


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (ISSUER, "EXITPLANE_OIDC_CLIENT_ID"),
        (CLIENT | {"OIDC_ISSUER": "http://login.example.net"}, "EXITPLANE_OIDC_ISSUER"),
        (CLIENT | {"OIDC_ISSUER": "login.example.net"}, "EXITPLANE_OIDC_ISSUER"),
        (CLIENT | {"OIDC_ISSUER": "https://login.example.net/#x"}, "EXITPLANE_OIDC_ISSUER"),
        (ISSUER | CLIENT | {"OIDC_ROLE_CLAIM": "groups"}, "EXITPLANE_OIDC_ROLES"),
        (ISSUER | CLIENT | {"OIDC_ROLES": "admin=x"}, "EXITPLANE_OIDC_ROLE_CLAIM"),
        (ISSUER | CLIENT | {"OIDC_ROLE_CLAIM": "groups", "OIDC_ROLES": "root=x"}, "EXITPLANE_OIDC_ROLES"),
        (ISSUER | CLIENT | {"OIDC_ROLE_CLAIM": "groups", "OIDC_ROLES": "admin"}, "EXITPLANE_OIDC_ROLES"),
    ],
)
def test_incomplete_provider_settings_are_refused(variables, named, provider_settings):
    with pytest.raises(BadSettings, match=named):
        provider_settings(**variables)


def test_error_message_omits_client_secret(provider_settings):
    with pytest.raises(BadSettings) as refused:
        provider_settings(OIDC_ISSUER="https://login.example.net", OIDC_CLIENT_SECRET="s3cret")
    assert "s3cret" not in str(refused.value)
