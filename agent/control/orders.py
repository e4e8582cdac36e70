"""Operators' orders to an agent: received with heartbeat replies, carried out once, and reported until the report is delivered."""

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
"""A function from an order's detail to its outcome, both JSON objects. Raises OrderFailed."""
TIMEOUT_S: Final = 240.0
"""The time limit of an order, shorter than its expiry in the control plane (five minutes)."""
_REMEMBERED_MAX: Final = 256
_REPORTED_MAX: Final = 16
_ERROR_MAX_CHARS: Final = 500


class OrderFailed(ExitplaneError):
    """The order cannot be carried out, or did not work."""

    code = "order_failed"


class Orders:
    """Carries out orders, each in its own task, with the handler of its kind. `aclose` cancels the running ones."""

    def __init__(self, board: StatusBoard, handlers: Mapping[str, Handler], *, timeout_s: float = TIMEOUT_S) -> None:
        self._board = board
        self._handlers = handlers
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._started: OrderedDict[str, None] = OrderedDict()
        """The ids of started orders. The control plane repeats an order until it has the outcome."""
        self._outcomes: dict[str, dict[str, Any]] = {}

    @property
    def outcomes(self) -> Sequence[Mapping[str, Any]]:
        """The outcomes that are not delivered yet, in the form of a heartbeat."""
        return list(self._outcomes.values())[:_REPORTED_MAX]

    def forget(self, ids: Collection[str]) -> None:
        """Drop the outcomes of these orders, which are delivered."""
        for each in ids:
            self._outcomes.pop(each, None)

    def start_new(self, orders: object) -> None:
        """Start the orders that are new, and ignore invalid entries."""
        for order in orders if isinstance(orders, list) else ():
            if not isinstance(order, dict):
                continue
            id_, kind, detail = order.get("id"), order.get("kind"), order.get("detail")
            if not isinstance(id_, str) or not isinstance(kind, str) or id_ in self._started:
                continue
            self._started[id_] = None
            if len(self._started) > _REMEMBERED_MAX:
                self._started.popitem(last=False)
            task = asyncio.create_task(self._carry_out(id_, kind, detail if isinstance(detail, dict) else {}))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Cancel the running orders."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry_out(self, id_: str, kind: str, detail: Mapping[str, Any]) -> None:
        log.info("order.started", order=id_, kind=kind)
        outcome, reason = None, ""
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = dict(await self._find_handler(kind)(detail))
        except OrderFailed as failed:
            reason = str(failed)
        except TimeoutError:
            reason = f"it took longer than {self._timeout_s:g} s"
        except Exception as error:
            log.exception("order.crashed", order=id_, kind=kind)
            reason = f"the agent failed ({type(error).__name__}); see its log"
        log.info("order.finished", order=id_, kind=kind, error=reason)
        self._outcomes[id_] = {"id": id_, "outcome": outcome, "error": reason[:_ERROR_MAX_CHARS]}
        self._board.update(orders_settled=self._board.report.orders_settled + 1)

    def _find_handler(self, kind: str) -> Handler:
        try:
            return self._handlers[kind]
        except KeyError:
            raise OrderFailed(
                f"this agent cannot carry out {kind!r}", hint="configure it as docs/exits.md says"
            ) from None
