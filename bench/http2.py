"""The client's side of gRPC over HTTP/2 (RFC 9113), limited to one stream on each connection.

It has no I/O and decodes no headers, because a simulated fleet shares two cores with the measured server.
"""

from __future__ import annotations

import re
import struct
from typing import Final

_FRAME: Final = struct.Struct(">BHBBI")
_MESSAGE: Final = struct.Struct(">BI")
_SETTING: Final = struct.Struct(">HI")
_NUMBER: Final = struct.Struct(">I")

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SIZE = 4

_STREAM: Final = 1
_DEFAULT_WINDOW: Final = 65_535
_LARGEST_WINDOW: Final = 2**31 - 1
_LARGEST_FRAME: Final = 16_384
_PRINTABLE: Final = re.compile(rb"[ -~]{4,}")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Encode a header field without indexing and without Huffman coding (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _opening(path: str, authority: str) -> bytes:
    """Build the first bytes of a connection: preface, settings with the largest window, and the request's headers."""
    headers = b"".join(
        [
            b"\x83\x87",  # :method POST, :scheme https, of the static table
            _literal(b":path", path.encode()),
            _literal(b":authority", authority.encode()),
            _literal(b"content-type", b"application/grpc"),
            _literal(b"te", b"trailers"),
        ]
    )
    settings = _SETTING.pack(_INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
    return b"".join(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(_SETTINGS, 0, 0, settings),
            _frame(_WINDOW_UPDATE, 0, 0, _NUMBER.pack(_LARGEST_WINDOW - _DEFAULT_WINDOW)),
            _frame(_HEADERS, _END_HEADERS, _STREAM, headers),
        ]
    )


class GrpcStream:
    """One bidirectional call. `out` has the bytes to write; `ended` is True when the server has closed the call."""

    __slots__ = (
        "_connection_room",
        "_message",
        "_needed",
        "_read",
        "_rest",
        "_room",
        "_unsent",
        "ended",
        "last",
        "out",
    )

    def __init__(self, path: str, authority: str) -> None:
        self.out = bytearray(_opening(path, authority))
        self.ended = False
        self.last = ""
        """The printable parts of the last headers, which tell why the call ended."""
        self._rest = b""
        self._message = bytearray()
        self._needed = 0
        """The length of the complete `_message` in bytes; 0 while unknown."""
        self._read = 0
        self._room = self._connection_room = _DEFAULT_WINDOW
        self._unsent = bytearray()

    def send(self, message: bytes) -> None:
        """Queue a message, which is written as far as the server's windows allow."""
        self._unsent += _MESSAGE.pack(0, len(message))
        self._unsent += message
        self._pump()

    def receive(self, data: bytes) -> list[bytes]:
        """Process received bytes, and return the messages that they complete."""
        if self._rest:
            data = self._rest + data
        messages: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            start = at + _FRAME.size
            stop = start + (high << 16 | low)
            if stop > end:
                break
            if kind == _DATA:
                self._take(data[start:stop], messages)
                self.ended |= bool(flags & _END_STREAM)
            else:
                self._control(kind, flags, stream, data[start:stop])
            at = stop
        self._rest = data[at:]
        return messages

    def _take(self, payload: bytes, messages: list[bytes]) -> None:
        self._read += len(payload)
        if self._read > _LARGEST_WINDOW // 2:
            more = _NUMBER.pack(self._read)
            self.out += _frame(_WINDOW_UPDATE, 0, 0, more) + _frame(_WINDOW_UPDATE, 0, _STREAM, more)
            self._read = 0
        held = self._message
        held += payload
        while True:
            if not self._needed:
                if len(held) < _MESSAGE.size:
                    return
                self._needed = _MESSAGE.size + _MESSAGE.unpack_from(held)[1]
            if len(held) < self._needed:
                return
            messages.append(bytes(memoryview(held)[_MESSAGE.size : self._needed]))
            if len(held) == self._needed:
                self._message = held = bytearray()
            else:
                del held[: self._needed]
            self._needed = 0

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            (more,) = _NUMBER.unpack(payload)
            if stream:
                self._room += more
            else:
                self._connection_room += more
            self._pump()
        elif kind == _PING and not flags & _ACK:
            self.out += _frame(_PING, _ACK, 0, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            for number, value in _SETTING.iter_unpack(payload):
                if number == _INITIAL_WINDOW_SIZE:
                    self._room += value - _DEFAULT_WINDOW
            self.out += _frame(_SETTINGS, _ACK, 0, b"")
            self._pump()
        elif kind == _HEADERS:
            self.last = b" ".join(_PRINTABLE.findall(payload)).decode()
            self.ended |= bool(flags & _END_STREAM)
        elif kind == _RST_STREAM:
            self.ended = True

    def _pump(self) -> None:
        unsent = self._unsent
        while unsent:
            size = min(len(unsent), _LARGEST_FRAME, self._room, self._connection_room)
            if size <= 0:
                return
            self.out += _FRAME.pack(0, size, _DATA, 0, _STREAM)
            self.out += unsent[:size]
            del unsent[:size]
            self._room -= size
            self._connection_room -= size
