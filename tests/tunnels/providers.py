"""The provider's side: WireGuard and OpenVPN servers, with a page and a resolver behind them."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.tunnels import lab

WG_PORT, OVPN_PORT = 51820, 1194
OVPN_SERVER = "10.98.0.1"
USER, PASSWORD = 'p1234 "x"', 'a\\b "c"'


def _private(key: X25519PrivateKey) -> str:
    return base64.b64encode(key.private_bytes_raw()).decode()


def _public(key: X25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


@dataclass
class WireGuardProvider:
    """A WireGuard server with one client."""

    processes: lab.Processes
    interface: str = "eptun-wg"
    port: int = WG_PORT
    number: int = 99
    own: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    client: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    process: subprocess.Popen[bytes] | None = None
    seen_as: str | None = None
    """The address with which its client is seen, if another server has given out the same inner address."""

    @property
    def server(self) -> str:
        """The server's address inside the tunnel."""
        return f"10.{self.number}.0.1"

    @property
    def address(self) -> str:
        """The client's address as others see it."""
        return f"10.{self.number}.0.2"

    @property
    def address_6(self) -> str:
        return f"fd{self.number}::2"

    def start(self) -> None:
        argv = ("wireguard-go", "--foreground", self.interface)
        self.process = self.processes.start(lab.NET, *argv, log="wireguard-server.log")
        settings = (
            f"[Interface]\nPrivateKey = {_private(self.own)}\nListenPort = {self.port}\n"
            f"[Peer]\nPublicKey = {_public(self.client)}\nAllowedIPs = {self.address}/32, {self.address_6}/128\n"
        )
        lab.wait_for(lambda: lab.has_interface(lab.NET, self.interface))
        command = ("ip", "netns", "exec", lab.NET, "wg", "setconf", self.interface, "/dev/stdin")
        lab.wait_for(
            lambda: subprocess.run(command, input=settings.encode(), capture_output=True, check=False).returncode == 0
        )
        lab.ip("address", "add", f"{self.server}/24", "dev", self.interface, namespace=lab.NET)
        lab.ip("address", "add", f"fd{self.number}::1/64", "dev", self.interface, "nodad", namespace=lab.NET)
        lab.ip("link", "set", self.interface, "up", namespace=lab.NET)
        if self.seen_as is not None:
            self._translate(self.seen_as)

    def _translate(self, address: str) -> None:
        """Translate the client's address, so that answers return through this tunnel and not the other server's."""
        rules = (
            f"table ip eptun {{\n"
            "  chain begin { type filter hook prerouting priority -150; "
            f'iifname "{self.interface}" ct mark set 7; }}\n'
            "  chain answer { type route hook output priority -150; ct mark 7 meta mark set 7; }\n"
            f'  chain seen {{ type nat hook input priority 100; iifname "{self.interface}" snat to {address}; }}\n'
            "}\n"
        )
        command = ("ip", "netns", "exec", lab.NET, "nft", "-f", "-")
        subprocess.run(command, input=rules.encode(), check=True, timeout=120)
        lab.ip("route", "replace", self.address, "dev", self.interface, "table", "77", namespace=lab.NET)
        lab.ip("route", "replace", address, "dev", self.interface, namespace=lab.NET)
        lab.ip("rule", "add", "fwmark", "7", "lookup", "77", namespace=lab.NET)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        lab.wait_for(lambda: not lab.has_interface(lab.NET, self.interface))

    def file(self, *, key: str | None = None, host: str = lab.NET_ADDRESS) -> str:
        return (
            f"[Interface]\nPrivateKey = {key or _private(self.client)}\n"
            f"Address = {self.address}/32, {self.address_6}/128\nDNS = {self.server}\nMTU = 1380\n\n"
            f"[Peer]\nPublicKey = {_public(self.own)}\nEndpoint = {host}:{self.port}\n"
            "AllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 25\n"
        )


def connect(provider: WireGuardProvider, processes: lab.Processes) -> None:
    """Do what `wg-quick up` does: create the client's end of a tunnel, and route everything into it."""
    processes.start(lab.EXIT, "wireguard-go", "--foreground", lab.TUNNEL, log="wireguard-client.log")
    lab.wait_for(lambda: lab.has_interface(lab.EXIT, lab.TUNNEL))
    lines = provider.file().splitlines()
    settings = "\n".join(line for line in lines if line.partition(" ")[0] not in {"Address", "DNS", "MTU"})
    command = ("ip", "netns", "exec", lab.EXIT, "wg", "setconf", lab.TUNNEL, "/dev/stdin")
    lab.wait_for(
        lambda: subprocess.run(command, input=settings.encode(), capture_output=True, check=False).returncode == 0
    )
    lab.ip("address", "add", f"{provider.address}/24", "dev", lab.TUNNEL, namespace=lab.EXIT)
    lab.ip("address", "add", f"{provider.address_6}/64", "dev", lab.TUNNEL, "nodad", namespace=lab.EXIT)
    lab.ip("link", "set", lab.TUNNEL, "up", "mtu", "1380", namespace=lab.EXIT)
    lab.ip("route", "replace", "default", "dev", lab.TUNNEL, namespace=lab.EXIT)
    lab.ip("-6", "route", "replace", "default", "dev", lab.TUNNEL, namespace=lab.EXIT)


def _certificate(name: str, issuer_name: str, key, issuer_key, *, authority: bool, use=None) -> x509.Certificate:
    now = datetime.now(UTC)
    subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer_name))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if use is not None:
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=True, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False).add_extension(
            usage, critical=True
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(thing) -> str:
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM).decode()
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return thing.private_bytes(serialization.Encoding.PEM, form, plain).decode()


@dataclass
class OpenVpnProvider:
    """An OpenVPN server with its own authority, which asks for a name and a password."""

    processes: lab.Processes
    folder: Path
    interface: str = "eptun-ov"
    port: int = OVPN_PORT
    keepalive: str = "2 8"
    """The interval at which each side sends, and the silence after which it takes the other for dead, in seconds."""
    pushes: tuple[str, ...] = (f"dhcp-option DNS {OVPN_SERVER}", "redirect-gateway def1")
    process: subprocess.Popen[bytes] | None = None
    authority: str = ""
    asked: Path = Path()

    def __post_init__(self) -> None:
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca = _certificate("lab authority", "lab authority", ca_key, ca_key, authority=True)
        server = _certificate(
            "server", "lab authority", key, ca_key, authority=False, use=ExtendedKeyUsageOID.SERVER_AUTH
        )
        self.authority = _pem(ca)
        self.asked = self.folder / "asked"
        self.asked.write_text("")
        (self.folder / "known").write_text(f"{USER}\n{PASSWORD}\n")
        verify = self.folder / "verify"
        verify.write_text(f'#!/bin/sh\necho asked >> {self.asked}\nexec cmp -s "$1" {self.folder / "known"}\n')
        verify.chmod(stat.S_IRWXU)
        (self.folder / "server.ovpn").write_text(
            f"mode server\ntls-server\ndev {self.interface}\ndev-type tun\ntopology subnet\nproto udp\n"
            f"local {lab.NET_ADDRESS}\nport {self.port}\nifconfig {OVPN_SERVER} 255.255.255.0\n"
            'ifconfig-pool 10.98.0.10 10.98.0.20 255.255.255.0\npush "topology subnet"\n'
            f'push "route-gateway {OVPN_SERVER}"\n'
            f"keepalive {self.keepalive}\ndh none\n"
            + "".join(f'push "{each}"\n' for each in self.pushes)
            + f"script-security 2\nauth-user-pass-verify {verify} via-file\nverify-client-cert none\n"
            f"username-as-common-name\nverb 3\n<ca>\n{self.authority}</ca>\n<cert>\n{_pem(server)}</cert>\n"
            f"<key>\n{_pem(key)}</key>\n"
        )

    def start(self) -> None:
        self.process = self.processes.start(
            lab.NET, "openvpn", "--config", str(self.folder / "server.ovpn"), log="openvpn-server.log",
            env={**os.environ}, cwd=self.folder,
        )  # fmt: skip
        lab.wait_for(lambda: lab.has_interface(lab.NET, self.interface))

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        lab.wait_for(lambda: not lab.has_interface(lab.NET, self.interface))

    @property
    def times_asked(self) -> int:
        return len(self.asked.read_text().splitlines())

    def file(self, *, host: str = lab.NET_ADDRESS) -> str:
        return (
            f"client\ndev tun\nproto udp\nremote {host} {self.port}\nnobind\npersist-tun\nauth-user-pass\n"
            f"remote-cert-tls server\nverb 4\n<ca>\n{self.authority}</ca>\n"
        )
