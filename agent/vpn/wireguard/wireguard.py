"""The driver of WireGuard: the kernel's, or wireguard-go where the kernel has none."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Final

import structlog

from agent.config.credentials import Credentials
from agent.config.settings import TunnelServer
from agent.net.commands import CommandFailed, run
from agent.net.interfaces import check_interface
from agent.net.packet_marks import BYPASS_MARK
from agent.net.processes import RunningProcess, start_child
from agent.vpn import policy_routing
from agent.vpn.driver import ActiveTunnel, DriverSpec, Resolve
from agent.vpn.errors import TunnelFailed
from agent.vpn.slots import InterfaceSlot
from agent.vpn.wireguard.liveness import HandshakeLiveness, TransferSample
from agent.vpn.wireguard.wg_quick import WireGuardFile, parse_wg_quick
from model.endpoint import Endpoint

log = structlog.get_logger()

UP_WITHIN_S: Final = 15.0
"""Three handshakes: WireGuard tries one every 5 s."""
_DEVICE_WITHIN_S: Final = 5.0
_STOP_S: Final = 2.0
_POLL_S: Final = 0.05


class WireGuardDriver:
    """The tunnel that one wg-quick file declares. wireguard-go writes its log into `folder`."""

    def __init__(self, file: WireGuardFile, folder: Path, resolve: Resolve) -> None:
        self._file = file
        self._slot: InterfaceSlot | None = None
        """The slot in which the tunnel is up or comes up."""
        self._folder = folder
        self._resolve = resolve
        self._process: RunningProcess | None = None
        self._liveness = HandshakeLiveness(file.main_peer.keepalive_s, str(file.main_peer.endpoint))

    @property
    def server(self) -> str:
        return str(self._file.main_peer.endpoint)

    @property
    def _interface(self) -> str:
        assert self._slot is not None
        return self._slot.interface

    async def up(self, slot: InterfaceSlot) -> ActiveTunnel:
        """Create the device, and return after the first handshake. Raises TunnelFailed."""
        self._slot = slot
        networks = tuple(each for peer in self._file.peers for each in peer.allowed)
        try:
            await self._create_device(slot)
            await run("wg", "setconf", self._interface, "/dev/stdin", text=await self._settings(slot))
            await self._configure_device()
            await policy_routing.add_slot_routes(slot, networks)
        except CommandFailed as error:
            raise TunnelFailed(f"the tunnel to {self.server} cannot be set up: {error}") from error
        await self._await_handshake()
        return ActiveTunnel(
            self.server, self._file.resolvers, networks, tuple(str(each.ip) for each in self._file.addresses)
        )

    async def check(self) -> str | None:
        """Return what is wrong with the device, its routes or the server, or None."""
        failure = self._check_process() or await check_interface(self._interface)
        if failure is not None:
            return failure
        try:
            sample = await self._sample()
        except CommandFailed as error:
            return error.message
        return self._liveness.update(time.monotonic(), sample) or self._check_routes()

    async def down(self) -> None:
        """Remove the device and stop wireguard-go."""
        if self._process is not None:
            await self._process.end(_STOP_S)
            self._process = None
        if self._slot is not None:
            await policy_routing.remove_interface(self._interface, WIREGUARD.link_kinds)
            self._slot = None

    # -- start

    async def _create_device(self, slot: InterfaceSlot) -> None:
        try:
            await run("ip", "link", "add", self._interface, "type", "wireguard")
        except CommandFailed as error:
            log.debug("tunnel.no_kernel_wireguard", reason=error.message)
        else:
            return
        self._process = self._start(slot)
        deadline_s = time.monotonic() + _DEVICE_WITHIN_S
        while True:
            try:
                await self._sample()
            except CommandFailed:
                if time.monotonic() > deadline_s:
                    raise TunnelFailed(
                        "wireguard-go creates no interface",
                        hint=f"see {self._folder / log_of(slot)}, and whether /dev/net/tun exists",
                    ) from None
                await asyncio.sleep(_POLL_S)
                if self._process.ended.is_set():  # the previous process may still have held the device
                    self._process = self._start(slot)
            else:
                return

    def _start(self, slot: InterfaceSlot) -> RunningProcess:
        command = ("wireguard-go", "--foreground", slot.interface)
        try:
            return start_child(command, self._folder, log_of(slot), environment={"LOG_LEVEL": "error"})
        except OSError as error:
            raise TunnelFailed(
                f"neither the kernel nor wireguard-go creates a WireGuard interface ({error.strerror})",
                hint="install wireguard-go, or load the kernel's module",
            ) from error

    async def _settings(self, slot: InterfaceSlot) -> str:
        """Return the input of `wg setconf`, with host names resolved and frequent keepalives."""
        lines = ["[Interface]", f"PrivateKey = {self._file.private_key}", f"FwMark = {BYPASS_MARK:#x}"]
        if self._file.listen_port and not slot.suffix:  # the file of the other slot may name the same port
            lines.append(f"ListenPort = {self._file.listen_port}")
        for peer in self._file.peers:
            assert peer.endpoint is not None
            addresses = await self._resolve(peer.endpoint.host)
            lines += [
                "[Peer]",
                f"PublicKey = {peer.public_key}",
                f"Endpoint = {Endpoint(addresses[0], peer.endpoint.port)}",
                f"AllowedIPs = {', '.join(map(str, peer.allowed))}",
                f"PersistentKeepalive = {peer.keepalive_s}",
            ]
            if peer.preshared_key is not None:
                lines.append(f"PresharedKey = {peer.preshared_key}")
        return "\n".join([*lines, ""])

    async def _configure_device(self) -> None:
        lines = [
            f"address add {each} dev {self._interface}"
            for each in self._file.addresses
            if each.version == 4 or policy_routing.has_ipv6(self._interface)
        ]
        if self._file.mtu is not None:
            lines.append(f"link set {self._interface} mtu {self._file.mtu}")
        await run("ip", "-batch", "-", text="\n".join([*lines, f"link set {self._interface} up", ""]))

    async def _await_handshake(self) -> None:
        deadline_s = time.monotonic() + UP_WITHIN_S
        while time.monotonic() < deadline_s:
            failure = self._check_process() or await check_interface(self._interface)
            if failure is not None:
                raise TunnelFailed(failure)
            try:
                sample = await self._sample()
            except CommandFailed as error:
                raise TunnelFailed(error.message) from error
            if sample.handshake_at:
                self._liveness.start(time.monotonic(), sample)
                return
            await asyncio.sleep(_POLL_S)
        raise TunnelFailed(
            f"{self.server} completes no handshake within {UP_WITHIN_S:g} s", hint="check its address and the keys"
        )

    # -- health

    async def _sample(self) -> TransferSample:
        """Read the device's counters of the main peer. Raises CommandFailed."""
        # the first line holds the private key, which must not leave this function
        for line in (await run("wg", "show", self._interface, "dump")).splitlines()[1:]:
            match line.split("\t"):
                case [key, _, _, _, handshake, received, sent, _] if key == self._file.main_peer.public_key:
                    return TransferSample(int(handshake), int(received), int(sent))
        return TransferSample(0, 0, 0)

    def _check_process(self) -> str | None:
        ended = self._process is not None and self._process.ended.is_set()
        return f"interface {self._interface} is gone: wireguard-go has ended" if ended else None

    def _check_routes(self) -> str | None:
        covered = {network.version for peer in self._file.peers for network in peer.allowed if network.prefixlen == 0}
        versions = {
            each.version
            for each in self._file.addresses
            if each.version in covered and (each.version == 4 or policy_routing.has_ipv6(self._interface))
        }
        return policy_routing.check_routes(self._interface, versions)


def log_of(slot: InterfaceSlot) -> str:
    """Return the name of wireguard-go's log."""
    return f"wireguard{slot.suffix}.log"


def _parse(text: str, name: str, _: Credentials | None) -> tuple[TunnelServer, ...]:
    file = parse_wg_quick(text, name)
    contacts = tuple((peer.endpoint, "udp") for peer in file.peers if peer.endpoint is not None)
    return (TunnelServer(WIREGUARD.name, name, contacts, file, file.resolvers),)


def _make(server: TunnelServer, folder: Path, resolve: Resolve) -> WireGuardDriver:
    assert isinstance(server.config, WireGuardFile)
    return WireGuardDriver(server.config, folder, resolve)


WIREGUARD: Final = DriverSpec(
    name="wireguard",
    file_format="wg-quick",
    pattern=re.compile(r"^\s*\[\s*interface\s*\]", re.IGNORECASE | re.MULTILINE),
    programs={"wg": "wireguard-tools"},
    link_kinds=frozenset({"wireguard", "tun"}),  # of the kernel, or of wireguard-go
    parse=_parse,
    make=_make,
    resolver_setting="DNS = …",
)
