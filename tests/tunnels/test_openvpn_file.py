"""The parser of OpenVPN's files."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.credentials import read_credentials
from agent.config.option_parsing import BadSetting
from agent.vpn.errors import BadTunnelFile
from agent.vpn.openvpn.client_file import Remote, parse_openvpn
from agent.vpn.openvpn.openvpn import OPENVPN
from agent.vpn.registry import recognise
from agent.vpn.servers import read_servers
from agent.vpn.wireguard.wireguard import WIREGUARD
from model.endpoint import Endpoint

CA = "<ca>\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n</ca>\n"
KEY = "<key>\nSECRET-KEY\n</key>\n"
CERT = "<cert>\nCERT\n</cert>\n"
FILE = "client\ndev tun\nproto udp\nremote vpn.example.net 1194\nauth-user-pass\n" + CA


def parse(text):
    return parse_openvpn(text, "a.ovpn")


def refusal(text):
    with pytest.raises(BadTunnelFile) as raised:
        parse(text)
    assert "SECRET" not in str(raised.value)
    assert raised.value.hint
    return str(raised.value)


def test_remotes_have_ports_and_protocols():
    file = parse(
        "dev tun0\nremote a.example\nremote b.example 443 tcp\nremote 2001:db8::1 1195 udp6\nport 1200\nproto tcp-client\n"
        "remote a.example\nauth-user-pass\n" + CA
    )
    assert file.remotes == (
        Remote(Endpoint("a.example", 1200), "tcp"),
        Remote(Endpoint("b.example", 443), "tcp"),
        Remote(Endpoint("2001:db8::1", 1195), "udp"),
    )


def test_only_harmless_options_reach_openvpn():
    file = parse(
        FILE + 'cipher AES-256-GCM # strong\n; a comment\nverify-x509-name "C=CH, CN=a b" subject\nverb 9\n'
        "redirect-gateway def1\nlog /etc/passwd\nuser nobody\nscript-security 1\nkeepalive 5 20\n"
        "tls-auth [inline] 1\n<tls-auth>\n  SECRET-KEY\n</tls-auth>\nsetenv CLIENT_CERT 0\n"
    )
    assert file.render() == (
        'cipher "AES-256-GCM"\nverify-x509-name "C=CH, CN=a b" "subject"\nkeepalive "5" "20"\nkey-direction "1"\n'
        + CA
        + "<tls-auth>\nSECRET-KEY\n</tls-auth>\n"
    )
    assert file.needs_credentials
    assert "SECRET" not in repr(file)


def test_certificate_needs_no_password():
    assert not parse(FILE.replace("auth-user-pass\n", "") + CERT + KEY).needs_credentials


def test_resolvers_of_file_are_read():
    assert parse(FILE + "dhcp-option DNS 10.8.0.1\ndhcp-option DOMAIN x\n").resolvers == ("10.8.0.1",)


@pytest.mark.parametrize(
    "option",
    [
        *(
            "up /bin/sh",
            "down x",
            "route-up x",
            "ipchange x",
            "tls-verify x",
            "client-connect x",
            "plugin a.so",
            "--up x",
        ),
        *("management 127.0.0.1 7505", "management-client", "http-proxy a 1", "socks-proxy a 1", "config other.ovpn"),
        *("auth-user-pass-verify x via-env", "route-pre-down x", "learn-address x", "iproute /tmp/x", "dns-updown x"),
        *("askpass f", "capath /", "cd /", "chroot /", "engine x", "pkcs12 f", "crl-verify f", "tmp-dir /"),
        *("secret f", "mode server", "server 10.0.0.0 255.0.0.0", "ifconfig 1.1.1.1 1.1.1.2", "UP x"),
    ],
)
def test_options_that_run_programs_or_bypass_tunnel_are_refused(option):
    name = option.split()[0].removeprefix("--").lower()
    assert refusal(FILE + f"{option}\n").startswith(f"a.ovpn line 11: {name} is refused: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.ovpn: has no remote"),
        (FILE.replace("remote vpn.example.net 1194\n", ""), "has no remote"),
        (FILE.replace("dev tun", "dev tap0"), "line 2: dev is no tun"),
        (FILE + "dev-type tap\n", "line 11: dev-type is no tun"),
        (FILE + "script-security 2\n", "line 11: script-security allows programs to be run"),
        (FILE.replace("auth-user-pass", "auth-user-pass /etc/vpn"), "line 5: auth-user-pass names a file"),
        (FILE + "ca ca.crt\n", "line 11: ca names a file"),
        (FILE + "tls-crypt SECRET\n", "line 11: tls-crypt names a file"),
        (FILE.replace("</ca>\n", ""), "line 6: <ca> is not closed"),
        (FILE + "<key>\nSECRET\n<cert>\n", "line 11: <key> is not closed"),
        (FILE + CA, "line 11: <ca> is given a second time"),
        (FILE + "<connection>\nremote a 1\n</connection>\n", "line 11: <connection> opens no known block"),
        (FILE + "</ca>\n", "line 11: this opens no known block"),
        (FILE + "frobnicate 1\n", "line 11: frobnicate is no option that is known to be harmless"),
        (FILE + "SECRET+KEY= 1\n", "line 11: this is no option"),
        (FILE + 'cipher "AES\n', "line 11: has an unclosed quotation mark"),
        (FILE + "remote\n", "line 11: remote is not `remote host port protocol`"),
        (FILE + "remote a 0\n", "line 11: has no port from 1 to 65535"),
        (FILE + "remote a 1 icmp\n", "line 11: names a protocol that is neither udp nor tcp"),
        (FILE + "proto\n", "line 11: names a protocol"),
        (FILE + "dhcp-option DNS x\n", "line 11: dhcp-option DNS is no IP address"),
        *(
            (FILE + f"dhcp-option {kind} {address}\n", "line 11: dhcp-option DNS is not behind the tunnel")
            for kind, address in (("DNS", "127.0.0.11"), ("DNS6", "::1"), ("DNS", "0.0.0.0"))
        ),
        (FILE + "cipher none\n", "line 11: cipher allows none"),
        (FILE + "data-ciphers AES-256-GCM:None\n", "line 11: data-ciphers allows none"),
        (FILE + "data-ciphers-fallback none\n", "line 11: data-ciphers-fallback allows none"),
        (FILE + "ncp-ciphers none:AES-128-GCM\n", "line 11: ncp-ciphers allows none"),
        (FILE + "tls-cipher " + "A" * 242 + "\n", "line 11: is longer than 254 bytes"),
        (FILE.replace(CA, ""), "has no <ca>"),
        (FILE + KEY, "has one of <cert> and <key>"),
        (FILE.replace("auth-user-pass\n", ""), "does not authenticate the client"),
    ],
)
def test_invalid_file_is_refused_with_line(text, message):
    assert message in refusal(text)


def test_end_of_long_line_in_block_cannot_be_another_line_to_openvpn():
    # OpenVPN reads 255 bytes at once: it would end the block here, and take what follows for options
    assert "line 7: is longer than 254 bytes" in refusal(FILE.replace("<ca>\n", f"<ca>\n{'A' * 255}</ca>\nup x\n"))
    assert parse(FILE.replace("<ca>\n", f"<ca>\n{'A' * 254}\n"))


@given(st.lists(st.sampled_from([*FILE.splitlines(), "<key>", "up x", '"', "remote a 1"]) | st.text(max_size=30)))
def test_any_file_is_parsed_or_refused_without_harmful_options(lines):
    with contextlib.suppress(BadTunnelFile):
        outside = parse("\n".join(lines)).render().partition("<")[0]
        assert not any(line.startswith("up") for line in outside.splitlines())


# -- kinds of files, and credentials --------------------------------------------------------------------------------


def test_driver_is_recognised_by_extension_or_text():
    assert recognise("a.ovpn", "") is OPENVPN
    assert recognise("a.conf", FILE) is OPENVPN
    assert recognise("a.conf", "# x\n [interface] \n") is WIREGUARD
    with pytest.raises(BadTunnelFile, match="is neither wg-quick's nor OpenVPN's"):
        recognise("a.conf", "hello")


def test_each_remote_is_a_server_with_credentials(tmp_path):
    file, secret = tmp_path / "a.ovpn", tmp_path / "secret"
    file.write_text(FILE + "remote b.example 1\n")
    secret.write_text("user\r\npass word\n\n")
    secret.chmod(0o600)

    servers = read_servers([file], secret)

    assert [server.config.remote.endpoint.host for server in servers] == ["vpn.example.net", "b.example"]
    assert {(server.config.credentials.username, server.config.credentials.password) for server in servers} == {
        ("user", "pass word")
    }
    with pytest.raises(BadTunnelFile, match="asks for a user name and password; add --tunnel-credentials"):
        read_servers([file], None)


def test_unused_credentials_are_refused(tmp_path):
    file, secret = tmp_path / "a.ovpn", tmp_path / "secret"
    file.write_text(FILE.replace("auth-user-pass\n", "") + CERT + KEY)
    secret.write_text("user\npassword\n")
    secret.chmod(0o600)
    with pytest.raises(BadSetting, match="no file of --tunnel asks for them"):
        read_servers([file], secret)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("user\npassword\n", 0o640, r"is open to others \(mode 640\); chmod 600"),
        ("user\npassword\n", 0o604, "is open to others"),
        ("user\n", 0o600, "does not hold two lines"),
        ("user\npassword\nmore\n", 0o600, "does not hold two lines"),
        ("user\n\n", 0o600, "does not hold two lines"),
        ("us\x07er\npassword\n", 0o600, "does not hold two lines"),
        ("u" * 5000 + "\npassword", 0o600, "does not hold two lines"),
    ],
)
def test_credentials_file_must_be_private_and_have_two_lines(tmp_path, content, mode, message):
    secret = tmp_path / "secret"
    secret.write_text(content)
    secret.chmod(mode)
    with pytest.raises(BadSetting, match=message) as raised:
        read_credentials("--tunnel-credentials", secret, allow_colon=True)
    assert "password" not in str(raised.value).replace("the password in the second", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "is not text"), (b"a\0b", "is not text"), (b"#" * 70_000, "is larger than 65536 bytes")],
)
def test_file_that_is_no_text_is_refused(tmp_path, content, message):
    path = tmp_path / "a.ovpn"
    path.write_bytes(content)
    with pytest.raises(BadTunnelFile, match=message):
        read_servers([path], None)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BadTunnelFile, match="cannot be read"):
        read_servers([tmp_path / "none.conf"], None)
