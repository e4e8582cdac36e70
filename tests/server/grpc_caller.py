"""A program with gRPC's own xDS client, which resolves `xds:///`. gRPC reads its bootstrap once, so this is a process.

Each line on stdin is a target; the result of a call to it is a line of JSON on stdout.
"""

from __future__ import annotations

import json
import sys

import grpc

METHOD = "/greeter.Greeter/Hello"
CALL_TIMEOUT_S = 40
"""gRPC reports a missing resource after 15 s, because full states may cross the request for it."""


def call(channel: grpc.Channel) -> dict[str, str]:
    """Make a call. Return the body, or status and details."""
    try:
        body = channel.unary_unary(METHOD)(b"hello", timeout=CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        return {"status": error.code().name, "details": error.details() or ""}
    return {"status": "OK", "body": body.decode()}


def main() -> None:
    channels: dict[str, grpc.Channel] = {}
    for line in sys.stdin:
        target = line.strip()
        channel = channels.get(target) or channels.setdefault(target, grpc.insecure_channel(target))
        print(json.dumps(call(channel)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
