"""URLs of channels: services that are served, options, hosts, and secrets in errors."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from model.channel_urls import SERVICES, BadChannelUrl, hosts_of, redact, service_of


@pytest.mark.parametrize(
    ("url", "service", "hosts"),
    [
        ("https://user:pass@hooks.example.net:8443/x?a=b", "webhook", ["hooks.example.net"]),
        ("HTTP://[2001:db8::1]/", "webhook", ["2001:db8::1"]),
        ("tgram://123456789:abcdefg_hijklmnop/-100123/?silent=yes", "tgram", []),
        ("slack://TokenA/TokenB/TokenC/#ops", "slack", []),
        (
            "mailtos://me:pw@example.com?smtp=mail.example.com&to=you@example.com",
            "mailtos",
            ["example.com", "mail.example.com"],
        ),
        ("ntfy://ntfy.example.net/topic?priority=high", "ntfy", ["ntfy.example.net"]),
    ],
)
def test_service_and_hosts_are_found(url, service, hosts):
    assert (service_of(url), hosts_of(url)) == (service, hosts)


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "://", "https://", "https:///path", "https://a:0/", "https://a:99999/", "https://a/#part"),
        *("https://a b/", "https://ä.example/", "https://a/\n", "http://[::1/"),
        # plugins of Apprise that run programs, write files, or talk to this host
        *("syslog://", "dbus://", "macosx://", "windows://", "file:///etc/passwd", "json://127.0.0.1/", "smtp://a/"),
        # options that name files, redirects and certificates
        *("slack://a/b/c/?template=/etc/passwd", "discord://a/b/?TEMPLATE=x", "mailto://a:b@c.d?pgpkey=/etc/shadow"),
        *(
            "ntfy://a/b?redirect=yes",
            "ntfy://a/b?verify=no",
            "ntfy://a/b?attach=http://169.254.169.254/",
            "tgram://a/b?rto=9999",
        ),
    ],
)
def test_url_that_is_not_served_is_refused_without_repeating_it(url):
    with pytest.raises(BadChannelUrl) as refused:
        service_of(url)
    assert len(url) < 12 or url not in str(refused.value)


def test_secrets_are_removed_from_errors():
    url = "tgram://123456:token-of-bot/-100777/?topic=secret"
    text = "failed 123456:token-of-bot in chat -100777 (secret); key k-e-y-1234"
    assert redact(text, url, "k-e-y-1234") == "failed *** in chat *** (***); key ***"
    assert redact("no route to mail.example.com", "mailto://u:pass@mail.example.com") == "no route to mail.example.com"


def test_each_service_is_a_plugin_of_apprise():
    assert all(find_spec(f"apprise.plugins.{each.module}") is not None for each in SERVICES.values())
