"""The endpoints of the collection /channels, and POST /channels/{channel}/test."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from api.features.channels.service import CHANNELS
from api.features.messages.schemas import MessageOut
from api.features.messages.service import MESSAGES
from api.http.openapi import document_operator_errors
from api.kernel.collections.router import router_of
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write
from model.repositories import messages

router = router_of(CHANNELS)
TEST_RULE = "test"
"""The name in place of a rule in test messages. Operators may name a rule so, too."""
_CONTENT = {"title": "Test message", "body": "This channel works.", "kind": "news", "items": []}


@router.post(
    "/{channel}/test",
    status_code=202,
    response_model=MessageOut,
    responses={
        200: {"model": DryRunOut, "description": "With `dry_run`."},
        **document_operator_errors(404, 409, 422),
    },
)
async def test_channel(
    channel: Annotated[str, Path(description="An id or a name.")],
    write: Annotated[OperatorWrite, require_write("channels")],
) -> Response:
    """Send a test message to a channel. `GET /messages/{id}` tells whether it arrived."""

    async def do(work: WriteContext) -> WriteReply:
        row = await CHANNELS.lock(work, channel)
        (stored,) = await messages.enqueue(work.session, TEST_RULE, [(row.id, row.name)], _CONTENT, work.now)
        return WriteReply(202, await MESSAGES.show_one(work.read, stored))

    return await write.run(do)
