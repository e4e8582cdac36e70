"""The protocol of OpenVPN's management interface (management-notes.txt of OpenVPN), without I/O.

`receive` takes each line of OpenVPN and returns the commands to send. The attributes hold the state of the tunnel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from agent.config.credentials import Credentials
from agent.vpn.errors import TunnelFailed

_PUSHED: Final = re.compile(r"PUSH: Received control message: 'PUSH_REPLY,(.*)'")
_SHOWN_CHARS: Final = 200
_NEEDS_AUTH: Final = "Need 'Auth' username/password"
_BAD_LOGIN: Final = "the provider refuses the name and password"


class ManagementProtocol:
    """The state of one OpenVPN process, by its own messages."""

    def __init__(self, server: str, credentials: Credentials | None) -> None:
        self._server = server
        self._credentials = credentials
        self.has_spoken = False
        """True once OpenVPN has sent a line; `end` follows then."""
        self.connected = False
        self.failure: TunnelFailed | None = None
        """The first reason for which there is no tunnel."""
        self.addresses: list[str] = []
        self.resolvers: list[str] = []
        self._last_error = ""

    def receive(self, line: str) -> Sequence[str]:
        """Take a line, and return the commands to send."""
        self.has_spoken = True
        kind, _, message = line.strip().partition(":")
        match kind:
            case ">HOLD":
                return ("state on", "log on", "hold release")
            case ">PASSWORD":
                return self._handle_password(message)
            case ">STATE":
                self._handle_state(message.split(","))
            case ">LOG":
                self._handle_log(message.split(",", 2))
            case ">FATAL":
                self.fail(f"OpenVPN gives up on {self._server}: {message[:_SHOWN_CHARS]}")
        return ()

    def fail(self, message: str, *, hint: str = "", retry_slowly: bool = False) -> None:
        """Record why there is no tunnel, unless a reason is known."""
        self.connected = False
        self.failure = self.failure or TunnelFailed(message, hint=hint, retry_slowly=retry_slowly)

    def end(self) -> None:
        """Record that OpenVPN has ended."""
        self.fail(f"OpenVPN has ended ({self._last_error or 'it does not say why'})")

    def _handle_password(self, message: str) -> Sequence[str]:
        if message.startswith("Verification Failed: 'Auth'"):
            self.fail(_BAD_LOGIN, hint="check --tunnel-credentials", retry_slowly=True)
        elif message == _NEEDS_AUTH and self._credentials is not None:
            user, password = _quoted(self._credentials.username), _quoted(self._credentials.password)
            return (f'username "Auth" {user}', f'password "Auth" {password}')
        elif message == _NEEDS_AUTH:
            self.fail("the provider asks for a name and password", hint="add --tunnel-credentials", retry_slowly=True)
        elif message.startswith("Need 'Private Key'"):
            self.fail("the file's key is encrypted", hint="decrypt it with `openssl pkey`", retry_slowly=True)
        elif message.startswith(_NEEDS_AUTH):
            self.fail(
                "the provider asks for a one-time password", hint="ask it for another kind of login", retry_slowly=True
            )
        return ()

    def _handle_state(self, fields: list[str]) -> None:
        state = fields[1] if len(fields) > 1 else ""
        detail = fields[2] if len(fields) > 2 else ""
        if state == "CONNECTED" and detail == "SUCCESS":
            self.connected = True
            self._add_address(fields[3] if len(fields) > 3 else "")
        elif state == "CONNECTED":
            self.fail(f"OpenVPN could not set up the interface ({detail})")
        elif state in {"RECONNECTING", "EXITING"}:
            if detail == "auth-failure":
                self.fail(_BAD_LOGIN, hint="check --tunnel-credentials", retry_slowly=True)
            elif self.connected:
                self.fail(f"{self._server} was lost ({detail or self._last_error})")
            else:
                self.fail(f"{self._server} refuses the connection ({self._last_error or detail})")

    def _handle_log(self, fields: list[str]) -> None:
        flags, message = (fields[1], fields[2]) if len(fields) > 2 else ("", "")
        pushed = _PUSHED.search(message)
        if pushed is not None:
            for option in pushed[1].split(","):
                self._take_pushed(option.split())
        elif set(flags) & {"F", "N"}:
            self._last_error = message[:_SHOWN_CHARS]

    def _take_pushed(self, words: list[str]) -> None:
        match words:
            case ["dhcp-option", "DNS" | "DNS6", address, *_]:
                self._add_resolver(address)
            case ["ifconfig-ipv6", address, *_]:
                self._add_address(address.partition("/")[0])

    def _add_resolver(self, text: str) -> None:
        try:
            address = ip_address(text)
        except ValueError:
            return
        if not (address.is_loopback or address.is_unspecified) and str(address) not in self.resolvers:
            self.resolvers.append(str(address))

    def _add_address(self, text: str) -> None:
        try:
            address = str(ip_address(text))
        except ValueError:
            return
        if address not in self.addresses:
            self.addresses.append(address)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
