"""A stand-in for Telegram's Bot API over HTTP, as https://core.telegram.org/bots/api documents it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

TOKEN = "123456:AAtoken-of_the-bot"


class Telegram:
    """It keeps updates until a getUpdates with a greater offset confirms them, as Telegram does."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.failures: list[tuple[int, dict[str, Any]]] = []
        """Answers to the next calls instead of results."""
        self.refuses_next: tuple[str, int, str] | None = None
        """The method whose next call is refused, with code and description."""
        self._next = 1000
        self._arrived = asyncio.Event()

    def receive(self, text: Any, chat: Any = 7, *, age_s: float = 0, **fields: Any) -> None:
        """Let a user write a text in a chat."""
        sender = {"id": 99, "is_bot": False, "first_name": "<b>Ada"}
        message = {"message_id": self._next, "date": int(time.time() - age_s), "chat": {"id": chat, "type": "private"}}
        self.updates.append({"update_id": self._next, "message": message | {"from": sender, "text": text} | fields})
        self._next += 1
        self._arrived.set()

    async def handle(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        self.calls.append(method)
        if request.match_info["token"] != TOKEN:
            return _refuse(401, "Unauthorized")
        if self.failures:
            status, body = self.failures.pop(0)
            return web.json_response(body, status=status)
        if self.refuses_next is not None and self.refuses_next[0] == method:
            (_, code, description), self.refuses_next = self.refuses_next, None
            return _refuse(code, description)
        given = await request.json()
        if method == "getMe":
            return _ok({"id": 123456, "is_bot": True, "first_name": "Exits", "username": "exits_bot"})
        if method == "getUpdates":
            return _ok(await self._updates(given["offset"], given["limit"], given["timeout"]))
        if method == "sendMessage":
            if len(given["text"]) > 4096:
                return _refuse(400, "Bad Request: message is too long")
            self.sent.append(given)
            return _ok({"message_id": len(self.sent), "chat": {"id": given["chat_id"]}, "text": given["text"]})
        return _refuse(404, "Not Found")

    async def _updates(self, offset: int, limit: int, timeout_s: int) -> list[dict[str, Any]]:
        self.updates = [each for each in self.updates if each["update_id"] >= offset]
        if not self.updates and timeout_s:
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                pass
        return self.updates[:limit]


def _ok(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _refuse(code: int, description: str) -> web.Response:
    return web.json_response({"ok": False, "error_code": code, "description": description}, status=code)
