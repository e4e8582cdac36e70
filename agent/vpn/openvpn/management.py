"""OpenVPN's management interface (management-notes.txt of OpenVPN), as a conversation without I/O.

OpenVPN says lines; `receive` takes each and gives what to answer. What it said of the tunnel stays in the attributes.
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
_SLOW: Final = "the provider refuses the name and password"


class ManagementProtocol:
    """One OpenVPN's life, as it tells it."""

    def __init__(self, server: str, credentials: Credentials | None) -> None:
        self._server = server
        self._credentials = credentials
        self.begun = False
        """True once OpenVPN has said anything; then `end` comes too."""
        self.connected = False
        self.failure: TunnelFailed | None = None
        """Why there is no tunnel; the first reason counts."""
        self.addresses: list[str] = []
        self.resolvers: list[str] = []
        self._last_complaint = ""

    def receive(self, line: str) -> Sequence[str]:
        """Take a line; gives the commands to send."""
        self.begun = True
        kind, _, said = line.strip().partition(":")
        match kind:
            case ">HOLD":
                return ("state on", "log on", "hold release")
            case ">PASSWORD":
                return self._answer_password(said)
            case ">STATE":
                self._hear_state(said.split(","))
            case ">LOG":
                self._hear_log(said.split(",", 2))
            case ">FATAL":
                self.fail(f"OpenVPN gives up on {self._server}: {said[:_SHOWN_CHARS]}")
        return ()

    def fail(self, message: str, *, hint: str = "", slowly: bool = False) -> None:
        """Note why there is no tunnel, unless that is known."""
        self.connected = False
        self.failure = self.failure or TunnelFailed(message, hint=hint, slowly=slowly)

    def end(self) -> None:
        """OpenVPN is gone."""
        self.fail(f"OpenVPN has ended ({self._last_complaint or 'it does not say why'})")

    def _answer_password(self, said: str) -> Sequence[str]:
        if said.startswith("Verification Failed: 'Auth'"):
            self.fail(_SLOW, hint="check --tunnel-credentials", slowly=True)
        elif said == _NEEDS_AUTH and self._credentials is not None:
            user, password = _quoted(self._credentials.username), _quoted(self._credentials.password)
            return (f'username "Auth" {user}', f'password "Auth" {password}')
        elif said == _NEEDS_AUTH:
            self.fail("the provider wants a name and password", hint="add --tunnel-credentials", slowly=True)
        elif said.startswith("Need 'Private Key'"):
            self.fail("the file's key is encrypted", hint="decrypt it with `openssl pkey`", slowly=True)
        elif said.startswith(_NEEDS_AUTH):
            self.fail("the provider wants a one-time password", hint="ask it for another kind of login", slowly=True)
        return ()

    def _hear_state(self, fields: list[str]) -> None:
        state = fields[1] if len(fields) > 1 else ""
        detail = fields[2] if len(fields) > 2 else ""
        if state == "CONNECTED" and detail == "SUCCESS":
            self.connected = True
            self._note_address(fields[3] if len(fields) > 3 else "")
        elif state == "CONNECTED":
            self.fail(f"OpenVPN could not set up the interface ({detail})")
        elif state in {"RECONNECTING", "EXITING"}:
            if detail == "auth-failure":
                self.fail(_SLOW, hint="check --tunnel-credentials", slowly=True)
            elif self.connected:
                self.fail(f"{self._server} was lost ({detail or self._last_complaint})")
            else:
                self.fail(f"{self._server} does not let us in ({self._last_complaint or detail})")

    def _hear_log(self, fields: list[str]) -> None:
        flags, message = (fields[1], fields[2]) if len(fields) > 2 else ("", "")
        pushed = _PUSHED.search(message)
        if pushed is not None:
            for option in pushed[1].split(","):
                self._note_pushed(option.split())
        elif set(flags) & {"F", "N"}:
            self._last_complaint = message[:_SHOWN_CHARS]

    def _note_pushed(self, words: list[str]) -> None:
        match words:
            case ["dhcp-option", "DNS" | "DNS6", address, *_]:
                self._note_resolver(address)
            case ["ifconfig-ipv6", address, *_]:
                self._note_address(address.partition("/")[0])

    def _note_resolver(self, text: str) -> None:
        try:
            address = ip_address(text)
        except ValueError:
            return
        if not (address.is_loopback or address.is_unspecified) and str(address) not in self.resolvers:
            self.resolvers.append(str(address))

    def _note_address(self, text: str) -> None:
        try:
            address = str(ip_address(text))
        except ValueError:
            return
        if address not in self.addresses:
            self.addresses.append(address)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
