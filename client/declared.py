"""The declared state as one document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from api.features.declared.schemas import AppliedOut, Declared
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import WriteOptions, sort_out
from client.transport import Operation, Reply, Transport

_PATH = f"{BASE_PATH}/declared"
_EXPORT = Operation("export_declared", "GET", _PATH, None, Declared)
_APPLY = Operation("apply_declared", "PUT", _PATH, Declared, AppliedOut)


class DeclaredClient:
    """What is declared, read and made as a whole."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def operations(self) -> Iterator[Operation[Any]]:
        yield from (_EXPORT, _APPLY)

    async def export(self, *, fleet: str | None = None) -> Declared:
        """All that is declared (in one fleet)."""
        return (await self._transport.send(_EXPORT, query={"fleet": fleet})).value

    async def apply(
        self, document: Declared, *, prune: bool = False, fleet: str | None = None, **given: Unpack[WriteOptions]
    ) -> Reply[AppliedOut]:
        """Make what is declared what the document says, in one revision; the reply says what the proxies made of it."""
        query, headers = sort_out(given)
        query |= {"prune": prune, "fleet": fleet}
        return await self._transport.send(_APPLY, query=query, body=document, headers=headers)

    async def try_apply(
        self, document: Declared, *, prune: bool = False, fleet: str | None = None, **given: Unpack[WriteOptions]
    ) -> tuple[AppliedOut, DryRunOut]:
        """What `apply` would do: its steps, and what of which proxies' configuration would differ."""
        query, headers = sort_out(given)
        query |= {"prune": prune, "fleet": fleet}
        tried = await self._transport.dry_run(_APPLY, query=query, body=document, headers=headers)
        return AppliedOut.model_validate(tried.body), tried
