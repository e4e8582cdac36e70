"""Channels of messages, with the test message that only they have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from api.features.channels.schemas import ChannelIn, ChannelOut, ChannelPatch
from api.features.messages.schemas import MessageOut
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import CollectionClient, WriteOptions, split_options
from client.transport import Operation

_TEST = Operation(
    "test_channel", "POST", f"{BASE_PATH}/channels/{{channel}}/test", None, MessageOut, takes_idempotency_key=True
)


class ChannelsClient(CollectionClient[ChannelIn, ChannelPatch, ChannelOut]):
    """The collection of channels."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield _TEST

    async def test(self, ref: object, **options: Unpack[WriteOptions]) -> MessageOut:
        """Send a test message to a channel."""
        query, headers = split_options(options)
        return (await self._transport.send(_TEST, str(ref), query=query, headers=headers)).value

    async def try_test(self, ref: object, **options: Unpack[WriteOptions]) -> DryRunOut:
        """Return what `test` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_TEST, str(ref), query=query, headers=headers)
