"""The declared state as one document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from api.features.declared.schemas import AppliedOut, Declared
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import WriteOptions, split_options
from client.transport import Operation, Reply, Transport

_PATH = f"{BASE_PATH}/declared"
_EXPORT = Operation("export_declared", "GET", _PATH, None, Declared)
_APPLY = Operation("apply_declared", "PUT", _PATH, Declared, AppliedOut)


class DeclaredClient:
    """The declared state, read and applied as a whole."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def operations(self) -> Iterator[Operation[Any]]:
        yield from (_EXPORT, _APPLY)

    async def export(self, *, fleet: str | None = None) -> Declared:
        """Read the declared state, of one fleet or of all."""
        return (await self._transport.send(_EXPORT, query={"fleet": fleet})).value

    async def apply(
        self, document: Declared, *, prune: bool = False, fleet: str | None = None, **options: Unpack[WriteOptions]
    ) -> Reply[AppliedOut]:
        """Make the declared state match a document, in one revision. The reply counts the answers of the proxies."""
        query, headers = split_options(options)
        query |= {"prune": prune, "fleet": fleet}
        return await self._transport.send(_APPLY, query=query, body=document, headers=headers)

    async def try_apply(
        self, document: Declared, *, prune: bool = False, fleet: str | None = None, **options: Unpack[WriteOptions]
    ) -> tuple[AppliedOut, DryRunOut]:
        """Return the steps that `apply` would take, and the differences in the configuration of proxies."""
        query, headers = split_options(options)
        query |= {"prune": prune, "fleet": fleet}
        dry_run = await self._transport.dry_run(_APPLY, query=query, body=document, headers=headers)
        return AppliedOut.model_validate(dry_run.body), dry_run
