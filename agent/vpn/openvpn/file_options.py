"""The options of an OpenVPN client's file (openvpn(8)): those that are passed on, ignored or refused. Data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PASSED_ON: Final = _words(
    "allow-compression auth cipher comp-lzo comp-noadapt compress data-ciphers data-ciphers-fallback fast-io fragment"
    " hand-window keepalive key-direction link-mtu mssfix mtu-disc mute-replay-warnings ncp-ciphers ncp-disable"
    " ns-cert-type ping ping-exit ping-restart ping-timer-rem rcvbuf remote-cert-eku remote-cert-ku remote-cert-tls"
    " reneg-bytes reneg-pkts reneg-sec replay-window sndbuf tls-cert-profile tls-cipher tls-ciphersuites tls-groups"
    " tls-timeout tls-version-max tls-version-min tran-window tun-mtu tun-mtu-extra txqueuelen verify-x509-name"
)
"""Options of the connection and its protection, passed to OpenVPN unchanged."""

CIPHERS: Final = _words("cipher data-ciphers data-ciphers-fallback ncp-ciphers")
"""Those among them that name ciphers of the data, several with colons between them. OpenVPN knows the cipher `none`."""

IGNORED: Final = _words(
    "auth-nocache auth-retry bind block-ipv6 block-outside-dns client connect-retry connect-retry-max connect-timeout"
    " daemon dhcp-option down-pre explicit-exit-notify float group inactive local log log-append lport machine-readable-output"
    " mute nice nobind persist-key persist-local-ip persist-remote-ip persist-tun pull pull-filter push-peer-info redirect-gateway"
    " redirect-private register-dns remote-random resolv-retry route route-delay route-gateway route-ipv6 route-method"
    " route-metric route-noexec route-nopull server-poll-timeout setenv setenv-safe show-net-up single-session status"
    " suppress-timestamps syslog tls-client topology tun-ipv6 up-delay up-restart user verb writepid"
)
"""Options that the agent sets itself (routes, resolvers, restarts, logs, user), or that have no meaning here."""

_RUNS_PROGRAM: Final = "it runs a program, and an agent runs none out of a provider's file"
_BYPASS: Final = "it connects to a host that the kill switch does not know"
_NAMES_FILE: Final = "it names a file, and an agent reads none that a provider chose"
_FOR_SERVERS: Final = "it belongs to a server, or to a tunnel without certificates"

REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        _words(
            "auth-user-pass-verify client-connect client-crresponse client-disconnect dns-updown down ipchange iproute"
            " learn-address plugin route-pre-down route-up service tls-crypt-v2-verify tls-export-cert tls-verify up"
        ),
        _RUNS_PROGRAM,
    ),
    **dict.fromkeys(
        _words(
            "http-proxy http-proxy-option http-proxy-user-pass remote-random-hostname socks-proxy socks-proxy-retry"
        ),
        _BYPASS,
    ),
    **dict.fromkeys(
        _words("askpass capath cd chroot config crl-verify engine pkcs12 pkcs11-providers providers setcon tmp-dir"),
        _NAMES_FILE,
    ),
    **dict.fromkeys(
        _words("dh ifconfig ifconfig-ipv6 mode secret server server-bridge server-ipv6 tls-server"), _FOR_SERVERS
    ),
}

INLINE: Final = frozenset({"ca", "cert", "key", "tls-auth", "tls-crypt", "tls-crypt-v2", "extra-certs"})
"""Options whose value may be inline, between <name> and </name>."""


def refusal_reason(option: str) -> str | None:
    """Return why an option is refused, or None."""
    if option.startswith("management"):
        return "only the agent controls OpenVPN"
    return REFUSED.get(option)
