"""The driver of OpenVPN, a child process that is controlled through its management interface."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.config.credentials import Credentials
from agent.config.settings import TunnelServer
from agent.config.status import wait
from agent.net.commands import CommandFailed
from agent.net.interfaces import check_interface
from agent.net.packet_marks import BYPASS_MARK
from agent.net.processes import RunningProcess, start_child
from agent.vpn import policy_routing
from agent.vpn.driver import ActiveTunnel, DriverSpec, Resolve
from agent.vpn.errors import BadTunnelFile, TunnelFailed
from agent.vpn.openvpn.client_file import OpenVpnFile, Remote, parse_openvpn
from agent.vpn.openvpn.management import ManagementProtocol
from agent.vpn.slots import InterfaceSlot

UP_WITHIN_S: Final = 25.0
_STOP_S: Final = 3.0
_LINE_MAX: Final = 65_536


class OpenVpnDriver:
    """The tunnel to one remote of a file. `folder` holds the management socket and OpenVPN's log."""

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
        self._slot: InterfaceSlot | None = None
        """The slot in which the tunnel is up or comes up."""
        self._folder = folder
        self._resolve = resolve
        self._process: RunningProcess | None = None
        self._management_server: asyncio.Server | None = None
        self._management = ManagementProtocol(self.server, credentials)
        self._progress = asyncio.Event()

    @property
    def server(self) -> str:
        return f"{self._remote.endpoint}/{self._remote.protocol}"

    async def up(self, slot: InterfaceSlot) -> ActiveTunnel:
        """Start OpenVPN, and return once it is connected. Raises TunnelFailed."""
        self._slot = slot
        self._management = ManagementProtocol(self.server, self._credentials)
        addresses = await self._resolve(self._remote.endpoint.host)
        await self._listen(slot)
        self._start(slot, addresses[0])
        await self._await_connection(slot)
        try:
            networks = tuple(each for each in policy_routing.EVERYTHING if each.version in self._versions())
            await policy_routing.add_slot_routes(slot, networks)
        except CommandFailed as error:
            raise TunnelFailed(f"the tunnel to {self.server} cannot be set up: {error}") from error
        resolvers = tuple(self._file.resolvers or self._management.resolvers)
        return ActiveTunnel(self.server, resolvers, networks, tuple(self._management.addresses))

    async def check(self) -> str | None:
        """Return what is wrong with OpenVPN, its interface or its routes, or None."""
        if self._management.failure is not None:
            return str(self._management.failure)
        assert self._slot is not None
        interface = self._slot.interface
        return await check_interface(interface) or policy_routing.check_routes(interface, self._versions())

    async def down(self) -> None:
        """Stop OpenVPN, and remove its interface."""
        if self._process is not None:
            await self._process.end(_STOP_S)
            self._process = None
        if self._management_server is not None:
            self._management_server.close()
            self._management_server = None
        if self._slot is not None:
            (self._folder / socket_of(self._slot)).unlink(missing_ok=True)
            await policy_routing.remove_interface(self._slot.interface, OPENVPN.link_kinds)
            self._slot = None

    # -- start

    async def _listen(self, slot: InterfaceSlot) -> None:
        """Listen for OpenVPN's management connection, so that no other process can control it."""
        path = self._folder / socket_of(slot)
        path.unlink(missing_ok=True)
        try:
            self._management_server = await asyncio.start_unix_server(self._handle_management, path, limit=_LINE_MAX)
            path.chmod(0o600)
        except (OSError, ValueError) as error:
            raise TunnelFailed(f"{path} cannot be listened on ({error})", hint="use a shorter --state") from error

    def _start(self, slot: InterfaceSlot, address: str) -> None:
        remote = self._remote
        protocol = {"udp": "udp", "tcp": "tcp-client"}[remote.protocol] + ("6" if ":" in address else "")
        own = [
            "client",
            "nobind",
            f"dev {slot.interface}",
            "dev-type tun",
            f"proto {protocol.replace('tcp-client6', 'tcp6-client')}",
            f"remote {address} {remote.endpoint.port}",
            "resolv-retry 0",
            "script-security 1",
            "route-noexec",
            f"mark {BYPASS_MARK}",
            "auth-nocache",
            "auth-retry none",
            # the supervisor decides on restarts: OpenVPN ends instead, and its interface with it
            "remap-usr1 SIGTERM",
            "connect-retry-max 1",
            f"management {socket_of(slot)} unix",
            "management-client",
            "management-hold",
            "management-query-passwords",
            "verb 3",
        ]
        if self._file.needs_credentials:
            own.append("auth-user-pass")
        text = self._file.render() + "\n".join([*own, ""])
        try:
            self._process = start_child(("openvpn", "--config", "stdin"), self._folder, log_of(slot), text)
        except OSError as error:
            raise TunnelFailed(f"OpenVPN cannot be started ({error.strerror})", hint="install openvpn") from error

    async def _await_connection(self, slot: InterfaceSlot) -> None:
        """Wait until OpenVPN is connected. Raises TunnelFailed if it fails, ends, or takes too long."""
        assert self._process is not None
        deadline_s = asyncio.get_running_loop().time() + UP_WITHIN_S
        while not self._management.connected:
            left_s = deadline_s - asyncio.get_running_loop().time()
            # the reason of an end may still be unread on the management connection, if there is one
            if self._process.ended.is_set() and not self._management.has_spoken and self._management.failure is None:
                path = self._folder / log_of(slot)
                self._management.fail(f"OpenVPN ended at once: {_last_line(path)}", hint=f"see {path}")
            if left_s <= 0:
                self._management.fail(f"{self.server} does not answer within {UP_WITHIN_S:g} s")
            if self._management.failure is not None:
                raise self._management.failure
            self._progress.clear()
            await wait(self._progress, min(left_s, 0.2))

    def _versions(self) -> set[int]:
        return {6 if ":" in each else 4 for each in self._management.addresses}

    # -- management interface

    async def _handle_management(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        management = self._management
        with suppress(OSError, ValueError):
            while line := await reader.readline():
                for answer in management.receive(line.decode(errors="replace")):
                    writer.write(f"{answer}\n".encode())
                await writer.drain()
                self._progress.set()
        management.end()
        self._progress.set()
        writer.close()


def log_of(slot: InterfaceSlot) -> str:
    """Return the name of OpenVPN's log."""
    return f"openvpn{slot.suffix}.log"


def socket_of(slot: InterfaceSlot) -> str:
    """Return the name of the management socket."""
    return f"openvpn{slot.suffix}.sock"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it does not say why")


@dataclass(frozen=True, slots=True)
class OpenVpnClientConfig:
    """One remote of a file, with the credentials that the file asks for."""

    file: OpenVpnFile
    remote: Remote
    credentials: Credentials | None


def _parse(text: str, name: str, credentials: Credentials | None) -> tuple[TunnelServer, ...]:
    """Raises BadTunnelFile, also if the file asks for credentials and there are none."""
    file = parse_openvpn(text, name)
    if file.needs_credentials and credentials is None:
        hint = "add --tunnel-credentials FILE"
        raise BadTunnelFile(name, "asks for a user name and password", hint=hint)
    used = credentials if file.needs_credentials else None
    return tuple(
        TunnelServer(
            OPENVPN.name,
            name,
            ((remote.endpoint, remote.protocol),),
            OpenVpnClientConfig(file, remote, used),
            file.resolvers,
            uses_credentials=file.needs_credentials,
        )
        for remote in file.remotes
    )


def _make(server: TunnelServer, folder: Path, resolve: Resolve) -> OpenVpnDriver:
    config = server.config
    assert isinstance(config, OpenVpnClientConfig)
    return OpenVpnDriver(config.file, config.remote, config.credentials, folder, resolve)


OPENVPN: Final = DriverSpec(
    name="openvpn",
    file_format="OpenVPN",
    extension=".ovpn",
    pattern=re.compile(r"^\s*(--)?(remote|client|proto|dev)\s", re.MULTILINE),
    programs={"openvpn": "openvpn"},
    link_kinds=frozenset({"tun", "ovpn", "ovpn-dco"}),
    parse=_parse,
    make=_make,
)
