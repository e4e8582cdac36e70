"""What an OpenVPN client's file may say (openvpn(8)): what is passed on, what is left out, and what is refused. Data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CARRIED: Final = _words(
    "allow-compression auth cipher comp-lzo comp-noadapt compress data-ciphers data-ciphers-fallback fast-io fragment"
    " hand-window keepalive key-direction link-mtu mssfix mtu-disc mute-replay-warnings ncp-ciphers ncp-disable"
    " ns-cert-type ping ping-exit ping-restart ping-timer-rem rcvbuf remote-cert-eku remote-cert-ku remote-cert-tls"
    " reneg-bytes reneg-pkts reneg-sec replay-window sndbuf tls-cert-profile tls-cipher tls-ciphersuites tls-groups"
    " tls-timeout tls-version-max tls-version-min tran-window tun-mtu tun-mtu-extra txqueuelen verify-x509-name"
)
"""How the connection is made and protected: handed to OpenVPN as it stands."""

LEFT_OUT: Final = _words(
    "auth-nocache auth-retry bind block-ipv6 block-outside-dns client connect-retry connect-retry-max connect-timeout"
    " daemon dhcp-option down-pre explicit-exit-notify float group inactive local log log-append lport machine-readable-output"
    " mute nice nobind persist-key persist-local-ip persist-remote-ip persist-tun pull pull-filter push-peer-info redirect-gateway"
    " redirect-private register-dns remote-random resolv-retry route route-delay route-gateway route-ipv6 route-method"
    " route-metric route-noexec route-nopull server-poll-timeout setenv setenv-safe show-net-up single-session status"
    " suppress-timestamps syslog tls-client topology tun-ipv6 up-delay up-restart user verb writepid"
)
"""What the agent settles itself (routes, names, restarts, logs, who it runs as), or what has no meaning here."""

_RUNS: Final = "it runs a program, and an agent runs none out of a file that a provider wrote"
_HOLE: Final = "it opens a way that the kill switch does not know"
_FILES: Final = "it names a file, and an agent reads none that a provider chose"
_SERVER: Final = "it belongs to a server, or to a tunnel without certificates"

REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        _words(
            "auth-user-pass-verify client-connect client-crresponse client-disconnect dns-updown down ipchange iproute"
            " learn-address plugin route-pre-down route-up service tls-crypt-v2-verify tls-export-cert tls-verify up"
        ),
        _RUNS,
    ),
    **dict.fromkeys(
        _words(
            "http-proxy http-proxy-option http-proxy-user-pass remote-random-hostname socks-proxy socks-proxy-retry"
        ),
        _HOLE,
    ),
    **dict.fromkeys(
        _words("askpass capath cd chroot config crl-verify engine pkcs12 pkcs11-providers providers setcon tmp-dir"),
        _FILES,
    ),
    **dict.fromkeys(
        _words("dh ifconfig ifconfig-ipv6 mode secret server server-bridge server-ipv6 tls-server"), _SERVER
    ),
}

INLINE: Final = frozenset({"ca", "cert", "key", "tls-auth", "tls-crypt", "tls-crypt-v2", "extra-certs"})
"""What may stand between <name> and </name>."""


def why_refused(option: str) -> str | None:
    """Why an option is refused, or None if it is not."""
    if option.startswith("management"):
        return "the agent alone gives OpenVPN a way to be controlled"
    return REFUSED.get(option)
