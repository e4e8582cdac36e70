"""What operators ask of an agent: learnt from the answers to heartbeats, done once, and told until that was heard."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

import structlog

from agent.config.status import StatusBoard
from model.errors import ExitplaneError

log = structlog.get_logger()

Handler: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""From an order's detail to its outcome, both JSON. Raises OrderFailed."""
WITHIN_S: Final = 240.0
"""Less than an order waits for in the control plane."""
_REMEMBERED: Final = 256
_TOLD_AT_ONCE: Final = 16
_TROUBLE_MAX: Final = 500


class OrderFailed(ExitplaneError):
    """What was asked cannot be done, or did not work."""

    code = "order_failed"


class Orders:
    """Carries out orders, each in a task of its own, as `handlers` know how. `aclose` gives up what is under way."""

    def __init__(self, board: StatusBoard, handlers: Mapping[str, Handler], *, within_s: float = WITHIN_S) -> None:
        self._board = board
        self._handlers = handlers
        self._within_s = within_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._taken: OrderedDict[str, None] = OrderedDict()
        """Ids of those that were begun: an order is said again until the control plane has heard what came of it."""
        self._settled: dict[str, dict[str, Any]] = {}

    @property
    def settled(self) -> Sequence[Mapping[str, Any]]:
        """What came of orders, as a heartbeat says it, as long as it was not heard."""
        return list(self._settled.values())[:_TOLD_AT_ONCE]

    def heard(self, ids: Collection[str]) -> None:
        """The control plane has heard what came of these."""
        for each in ids:
            self._settled.pop(each, None)

    def take(self, orders: object) -> None:
        """Begin those that are new. What is no order is left alone."""
        for order in orders if isinstance(orders, list) else ():
            if not isinstance(order, dict):
                continue
            id_, kind, detail = order.get("id"), order.get("kind"), order.get("detail")
            if not isinstance(id_, str) or not isinstance(kind, str) or id_ in self._taken:
                continue
            self._taken[id_] = None
            if len(self._taken) > _REMEMBERED:
                self._taken.popitem(last=False)
            task = asyncio.create_task(self._do(id_, kind, detail if isinstance(detail, dict) else {}))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _do(self, id_: str, kind: str, detail: Mapping[str, Any]) -> None:
        log.info("order.begun", order=id_, kind=kind)
        outcome, trouble = None, ""
        try:
            async with asyncio.timeout(self._within_s):
                outcome = dict(await self._handler(kind)(detail))
        except OrderFailed as failed:
            trouble = str(failed)
        except TimeoutError:
            trouble = f"it took longer than {self._within_s:g} s"
        except Exception as error:
            log.exception("order.broke", order=id_, kind=kind)
            trouble = f"the agent failed ({type(error).__name__}); its log says more"
        log.info("order.settled", order=id_, kind=kind, trouble=trouble)
        self._settled[id_] = {"id": id_, "outcome": outcome, "error": trouble[:_TROUBLE_MAX]}
        self._board.update(settled=self._board.report.settled + 1)

    def _handler(self, kind: str) -> Handler:
        try:
            return self._handlers[kind]
        except KeyError:
            raise OrderFailed(
                f"this agent does not know how to {kind}", hint="give it what that takes; see docs/exits.md"
            ) from None
