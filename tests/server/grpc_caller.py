"""gRPC's own client, resolving `xds:///` by itself; a process of its own, because the bootstrap is read once.

Each line on stdin is a target; the answer to each is a line of JSON on stdout.
"""

from __future__ import annotations

import json
import sys

import grpc

METHOD = "/greeter.Greeter/Hello"
PATIENCE_S = 40
"""A name that was never there is one that stays away for 15 s: full states may cross the request for it."""


def call(channel: grpc.Channel) -> dict[str, str]:
    """What an RPC gave: the body, or status and details."""
    try:
        body = channel.unary_unary(METHOD)(b"hello", timeout=PATIENCE_S)
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
