"""Fleets: their collection and their rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from api.features.fleets.schemas import FleetIn, FleetOut, FleetPatch
from api.features.rollouts.schemas import RolloutOut
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import CollectionClient, WriteOptions, split_options
from client.transport import Operation

_APPROVAL = f"{BASE_PATH}/fleets/{{fleet}}/rollout/approval"
_ROLLOUT = Operation("read_rollout", "GET", f"{BASE_PATH}/fleets/{{fleet}}/rollout", None, RolloutOut)
_APPROVE = Operation("approve_shrink", "PUT", _APPROVAL, None, RolloutOut)
_RELEASE = Operation(
    "release_change_set",
    "PUT",
    f"{BASE_PATH}/fleets/{{fleet}}/rollout/change-sets/{{change_set}}/release",
    None,
    RolloutOut,
)
_WITHDRAW = Operation("withdraw_approval", "DELETE", _APPROVAL, None, RolloutOut)


class FleetsClient(CollectionClient[FleetIn, FleetPatch, FleetOut]):
    """The collection of fleets, with the operations on their rollouts."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from (_ROLLOUT, _APPROVE, _WITHDRAW, _RELEASE)

    async def rollout(self, fleet: object) -> RolloutOut:
        """Read the change-sets of a fleet that not all proxies have, and the reasons."""
        return (await self._transport.send(_ROLLOUT, str(fleet))).value

    async def approve_shrink(self, fleet: object, **options: Unpack[WriteOptions]) -> RolloutOut:
        """Allow the next change that removes more than half of the fleet's pools or healthy exits."""
        return await self._decide(_APPROVE, fleet, options)

    async def withdraw_approval(self, fleet: object, **options: Unpack[WriteOptions]) -> RolloutOut:
        """Withdraw the approval."""
        return await self._decide(_WITHDRAW, fleet, options)

    async def try_approve_shrink(self, fleet: object) -> DryRunOut:
        """Return what `approve_shrink` would do, without doing it."""
        return await self._transport.dry_run(_APPROVE, str(fleet))

    async def try_withdraw_approval(self, fleet: object) -> DryRunOut:
        """Return what `withdraw_approval` would do, without doing it."""
        return await self._transport.dry_run(_WITHDRAW, str(fleet))

    async def release_change_set(self, fleet: object, change_set: str, **options: Unpack[WriteOptions]) -> RolloutOut:
        """Release a change-set to all proxies of its group, whoever rejected it."""
        query, headers = split_options(options)
        return (await self._transport.send(_RELEASE, str(fleet), change_set, query=query, headers=headers)).value

    async def try_release_change_set(self, fleet: object, change_set: str) -> DryRunOut:
        """Return what `release_change_set` would do, without doing it."""
        return await self._transport.dry_run(_RELEASE, str(fleet), change_set)

    async def _decide(self, operation: Operation[RolloutOut], fleet: object, options: WriteOptions) -> RolloutOut:
        query, headers = split_options(options)
        return (await self._transport.send(operation, str(fleet), query=query, headers=headers)).value
