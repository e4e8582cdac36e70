"""OpenVPN as a child, led through its management interface."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.config.credentials import Credentials
from agent.config.status import wait
from agent.envoy.process import EnvoyProcess
from agent.net.commands import CommandFailed, start_child
from agent.vpn import policy_routing
from agent.vpn.driver import ActiveTunnel
from agent.vpn.errors import TunnelFailed
from agent.vpn.firewall.rules import MARK
from agent.vpn.openvpn.client_file import OpenVpnFile, Remote
from agent.vpn.openvpn.management import ManagementProtocol
from agent.vpn.slots import InterfaceSlot
from agent.vpn.tunnel_health import interface_trouble
from agent.vpn.wireguard.wireguard import Resolve

UP_WITHIN_S: Final = 25.0
_STOP_S: Final = 3.0
_LINE_MAX: Final = 65_536


class OpenVpnDriver:
    """The tunnel to one of a file's remotes. `folder` holds the socket and OpenVPN's log."""

    def __init__(
        self,
        file: OpenVpnFile,
        remote: Remote,
        credentials: Credentials | None,
        folder: Path,
        resolve: Resolve,
    ) -> None:
        self._file = file
        self._remote = remote
        self._credentials = credentials
        self._lane: InterfaceSlot | None = None
        """Where it is up, or tries to be."""
        self._folder = folder
        self._resolve = resolve
        self._process: EnvoyProcess | None = None
        self._listening: asyncio.Server | None = None
        self._conversation = ManagementProtocol(self.server, credentials)
        self._news = asyncio.Event()

    @property
    def server(self) -> str:
        return f"{self._remote.endpoint}/{self._remote.protocol}"

    async def up(self, lane: InterfaceSlot) -> ActiveTunnel:
        """Start OpenVPN, and return when it is connected. Raises TunnelFailed."""
        self._lane = lane
        self._conversation = ManagementProtocol(self.server, self._credentials)
        addresses = await self._resolve(self._remote.endpoint.host)
        await self._listen(lane)
        self._start(lane, addresses[0])
        await self._await_connection(lane)
        try:
            networks = tuple(each for each in policy_routing.EVERYTHING if each.version in self._versions())
            await policy_routing.pave(lane, networks)
        except CommandFailed as error:
            raise TunnelFailed(f"the tunnel to {self.server} cannot be set up: {error}") from error
        resolvers = tuple(self._file.resolvers or self._conversation.resolvers)
        return ActiveTunnel(self.server, resolvers, networks, tuple(self._conversation.addresses))

    async def look(self) -> str | None:
        """What is wrong: OpenVPN, its interface or its routes."""
        if self._conversation.failure is not None:
            return str(self._conversation.failure)
        assert self._lane is not None
        interface = self._lane.interface
        return await interface_trouble(interface) or policy_routing.route_trouble(interface, self._versions())

    async def down(self) -> None:
        """End OpenVPN, and remove its interface."""
        if self._process is not None:
            await self._process.end(_STOP_S)
            self._process = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._lane is not None:
            (self._folder / socket_of(self._lane)).unlink(missing_ok=True)
            await policy_routing.remove_interface(self._lane.interface)
            self._lane = None

    # -- beginning

    async def _listen(self, lane: InterfaceSlot) -> None:
        """Await OpenVPN's call: nobody else can then be the one that leads it."""
        path = self._folder / socket_of(lane)
        path.unlink(missing_ok=True)
        try:
            self._listening = await asyncio.start_unix_server(self._converse, path, limit=_LINE_MAX)
            path.chmod(0o600)
        except (OSError, ValueError) as error:
            raise TunnelFailed(f"{path} cannot be listened on ({error})", hint="use a shorter --state") from error

    def _start(self, lane: InterfaceSlot, address: str) -> None:
        remote = self._remote
        protocol = {"udp": "udp", "tcp": "tcp-client"}[remote.protocol] + ("6" if ":" in address else "")
        own = [
            "client",
            "nobind",
            f"dev {lane.interface}",
            "dev-type tun",
            f"proto {protocol.replace('tcp-client6', 'tcp6-client')}",
            f"remote {address} {remote.endpoint.port}",
            "resolv-retry 0",
            "script-security 1",
            "route-noexec",
            f"mark {MARK}",
            "auth-nocache",
            "auth-retry none",
            # every restart is the keeper's to decide: OpenVPN ends instead, and takes its interface along
            "remap-usr1 SIGTERM",
            "connect-retry-max 1",
            f"management {socket_of(lane)} unix",
            "management-client",
            "management-hold",
            "management-query-passwords",
            "verb 3",
        ]
        if self._file.needs_credentials:
            own.append("auth-user-pass")
        text = self._file.render() + "\n".join([*own, ""])
        try:
            self._process = start_child(("openvpn", "--config", "stdin"), self._folder, log_of(lane), text)
        except OSError as error:
            raise TunnelFailed(f"OpenVPN cannot be started ({error.strerror})", hint="install openvpn") from error

    async def _await_connection(self, lane: InterfaceSlot) -> None:
        """Raises TunnelFailed when it fails, ends, or takes too long."""
        assert self._process is not None
        deadline_s = asyncio.get_running_loop().time() + UP_WITHIN_S
        while not self._conversation.connected:
            left_s = deadline_s - asyncio.get_running_loop().time()
            # one that has called is heard out: why it ended may be read after it has
            if self._process.ended.is_set() and not self._conversation.begun and self._conversation.failure is None:
                path = self._folder / log_of(lane)
                self._conversation.fail(f"OpenVPN ended at once: {_last_words(path)}", hint=f"see {path}")
            if left_s <= 0:
                self._conversation.fail(f"{self.server} does not answer within {UP_WITHIN_S:g} s")
            if self._conversation.failure is not None:
                raise self._conversation.failure
            self._news.clear()
            await wait(self._news, min(left_s, 0.2))

    def _versions(self) -> set[int]:
        return {6 if ":" in each else 4 for each in self._conversation.addresses}

    # -- conversation

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = self._conversation
        with suppress(OSError, ValueError):
            while line := await reader.readline():
                for answer in conversation.receive(line.decode(errors="replace")):
                    writer.write(f"{answer}\n".encode())
                await writer.drain()
                self._news.set()
        conversation.end()
        self._news.set()
        writer.close()


def log_of(lane: InterfaceSlot) -> str:
    """The name of the file in which OpenVPN's words are."""
    return f"openvpn{lane.suffix}.log"


def socket_of(lane: InterfaceSlot) -> str:
    """The name of the socket at which OpenVPN calls."""
    return f"openvpn{lane.suffix}.sock"


def _last_words(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it does not say why")
