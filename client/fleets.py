"""Fleets, and their rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from api.features.fleets.schemas import FleetIn, FleetOut, FleetPatch
from api.features.rollouts.schemas import RolloutOut
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import CollectionClient, WriteOptions, sort_out
from client.transport import Operation

_APPROVAL = f"{BASE_PATH}/fleets/{{fleet}}/rollout/approval"
_ROLLOUT = Operation("read_rollout", "GET", f"{BASE_PATH}/fleets/{{fleet}}/rollout", None, RolloutOut)
_APPROVE = Operation("approve_shrink", "PUT", _APPROVAL, None, RolloutOut)
_WITHDRAW = Operation("withdraw_approval", "DELETE", _APPROVAL, None, RolloutOut)


class FleetsClient(CollectionClient[FleetIn, FleetPatch, FleetOut]):
    """Fleets, and what of them is being rolled out."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from (_ROLLOUT, _APPROVE, _WITHDRAW)

    async def rollout(self, fleet: object) -> RolloutOut:
        """What of a fleet is not with everybody yet, and why."""
        return (await self._transport.send(_ROLLOUT, str(fleet))).value

    async def approve_shrink(self, fleet: object, **given: Unpack[WriteOptions]) -> RolloutOut:
        """Let the next change through that takes more than half."""
        return await self._decide(_APPROVE, fleet, given)

    async def withdraw_approval(self, fleet: object, **given: Unpack[WriteOptions]) -> RolloutOut:
        """Take an approval back."""
        return await self._decide(_WITHDRAW, fleet, given)

    async def try_approve_shrink(self, fleet: object) -> DryRunOut:
        """What `approve_shrink` would do."""
        return await self._transport.dry_run(_APPROVE, str(fleet))

    async def try_withdraw_approval(self, fleet: object) -> DryRunOut:
        """What `withdraw_approval` would do."""
        return await self._transport.dry_run(_WITHDRAW, str(fleet))

    async def _decide(self, operation: Operation[RolloutOut], fleet: object, given: WriteOptions) -> RolloutOut:
        query, headers = sort_out(given)
        return (await self._transport.send(operation, str(fleet), query=query, headers=headers)).value
