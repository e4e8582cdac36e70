"""The encoding of messages to bytes: the only module that handles both protobuf libraries."""

from __future__ import annotations

from typing import TypeAlias

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    Metadata,
)
from envoy_data_plane.google.protobuf import Any, Struct, Value
from google.protobuf.message import Message as WireMessage

Message: TypeAlias = betterproto2.Message | WireMessage


def encode(message: Message) -> bytes:
    """Encode a message. Equal contents give equal bytes."""
    if isinstance(message, WireMessage):
        return message.SerializeToString(deterministic=True)
    return bytes(message)


def pack(message: betterproto2.Message) -> Any:
    """Wrap a message in an Any."""
    return Any.pack(message)


def metadata(namespace: str, **values: str) -> Metadata:
    """Build filter metadata of one namespace."""
    fields = {key: Value(string_value=value) for key, value in values.items()}
    return Metadata(filter_metadata={namespace: Struct(fields=fields)})


def overwrite(name: str, value: str) -> HeaderValueOption:
    """Build a header that replaces any earlier value."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
